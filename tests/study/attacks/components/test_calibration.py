"""Calibrated cross-entropies against their formulas."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from study.attacks.components.calibration import CalibratedCrossEntropy
from tests.study.attacks.components.written_out import (
    GOALS, LABELS, PIXELS, SIGN, attacked, clip, diversified, gradient, n, smoothed, streams,
)  # fmt: skip


def margin(logits, goal):
    first, second = logits.sort(dim=1, descending=True).values[:, :2].T
    scaled = logits / (first - second).detach()[:, None]
    return -SIGN[goal] * functional.cross_entropy(scaled, torch.from_numpy(LABELS), reduction="sum")


def cooled(logits, goal):
    return -SIGN[goal] * functional.cross_entropy(logits / 5, torch.from_numpy(LABELS), reduction="sum")


@pytest.mark.parametrize("goal", GOALS)
@pytest.mark.parametrize(("preset", "of"), [("logit-margin", margin), ("logit-temperature", cooled)])
def test_presets_are_the_printed_algorithm(small_images, preset, of, goal):
    """Weng et al. 2023: the calibrated loss with diversity, kernel, momentum and steps of 2."""
    x = clean = torch.from_numpy(small_images).double()
    momentum = torch.zeros_like(clean)
    for step in range(8):
        words = streams().integers(4, "diversity", step, 0)
        g = gradient(lambda x, words=words: PIXELS(diversified(x, words, 0.7)), x, goal, of)
        momentum = momentum + n(smoothed(g))
        x = clip(x + 2 * momentum.sign(), clean)
    assert (attacked(PIXELS, preset, {"steps": 8}, small_images, goal) - x).abs().max() < 1e-4


def test_equal_logits_have_no_margin():
    logits = torch.tensor([[2.0, 2.0, 1.0], [3.0, 1.0, 0.0]], dtype=torch.float64)
    labels = torch.tensor([0, 1])
    found = CalibratedCrossEntropy().loss(logits, labels, "untargeted")
    expected = functional.cross_entropy(logits / torch.tensor([[1.0], [2.0]]), labels, reduction="none")
    torch.testing.assert_close(found, expected)


def test_the_gradient_does_not_vanish_with_the_scale_of_logits():
    """A hundred times the logits: the margin's loss is the same, the plain one's gradient is gone."""
    logits = torch.tensor([[3.0, 1.0, 0.5]], dtype=torch.float64)
    label = torch.tensor([0])
    one, many = (CalibratedCrossEntropy().loss(scale * logits, label, "untargeted") for scale in (1, 100))
    torch.testing.assert_close(one, many)
