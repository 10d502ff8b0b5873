"""The objective of the label's probability."""

from __future__ import annotations

import torch

from study.attacks.components.label_probability import LabelProbability


def test_it_is_the_softmax_probability():
    logits = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * 4
    labels = torch.tensor([4, 0, 2])
    expected = torch.stack([logits.softmax(-1)[:, row, label] for row, label in enumerate(labels)], 1)
    torch.testing.assert_close(LabelProbability().loss(logits, labels, "targeted"), expected)
    torch.testing.assert_close(LabelProbability().loss(logits, labels, "untargeted"), -expected)


def test_of_several_models_it_is_that_of_their_mean_probability():
    logits = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(2), dtype=torch.float64) * 4
    labels, shares = torch.tensor([4, 0, 2]), torch.tensor([[0.25], [0.75]], dtype=torch.float64)
    mixed = 0.25 * logits[0].softmax(-1) + 0.75 * logits[1].softmax(-1)
    found = LabelProbability().loss_of_mean(logits, shares, labels, "targeted")
    torch.testing.assert_close(found, mixed[torch.arange(3), labels])
