"""US-MM against its formula, pixel by pixel, and its gradient at the view."""

from __future__ import annotations

import pytest
import torch

from study.attacks import Attack
from study.attacks.components.us_mm import UniformScaleMixMask
from study.attacks.presets import keys_of
from tests.view_trials import STREAMS, ascent, attacked, classifier, differing, logits_of, made, others, pixels


def direct(image, pool, step, copy):
    scale = (0.1, 0.2625, 0.425, 0.5875, 0.75)[copy % 5]
    copies = []
    for one, word in zip(image, STREAMS.integers(1, "us-mm", step, copy)[:, 0].tolist(), strict=True):
        other = torch.from_numpy(pool.pixels[word % 5]).double() / 255
        copies.append((scale * one * (0.5 + other)).clamp(0, 255))
    return torch.stack(copies)


def test_copies_are_the_formula():
    image, pool = torch.from_numpy(pixels(12)).double() * 1.2, others(12)
    view = UniformScaleMixMask()
    assert view.count == 15
    seen = set()
    for copy in range(15):
        expected = direct(image, pool, 4, copy)
        torch.testing.assert_close(made([view], image, copy, step=4, pool=pool), expected, rtol=0, atol=1e-9)
        seen.add(float(expected.mean()))
    assert len(seen) == 15


def test_the_gradient_is_that_at_the_view():
    images, pool = pixels(16), others(16)
    model = logits_of(classifier(16))
    labels = torch.tensor([1, 2, 3, 4])

    def direction(image, step):
        total = torch.zeros_like(image)
        for copy in range(15):
            view = direct(image, pool, step, copy).requires_grad_(True)
            loss = torch.nn.functional.cross_entropy(model(view), labels, reduction="sum")
            total += torch.autograd.grad(loss, view)[0]
        return total

    expected = ascent(direction, torch.from_numpy(images).double(), 3, 16 / 3)
    assert differing(attacked(model, keys_of("us-mm", {"steps": 3}), images, pool=pool), expected) < 2e-3


def test_one_scale_and_a_wrong_order():
    image, pool = torch.from_numpy(pixels(6)).double(), others(6)
    single = UniformScaleMixMask(scales=1, low=0.5, masks=1, mix=0)
    torch.testing.assert_close(made([single], image, 0, pool=pool), image / 2)
    with pytest.raises(ValueError, match="above its `high`"):
        Attack.model_validate(keys_of("us-mm", {"views": [{"us-mm": {"low": 0.9}}]}))
