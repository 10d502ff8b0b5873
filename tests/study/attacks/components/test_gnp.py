"""GNP against its formula in a plain loop, and its sign against the penalised gain by double backward."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from study.attacks.components.gnp import GradientNormPenalty
from study.attacks.presets import keys_of
from tests.study.attacks.components.point_oracles import (
    LABELS,
    Pixels,
    assert_same,
    clipped,
    double,
    mean_one,
    ours,
    slope,
)


@pytest.mark.parametrize(("variant", "share"), [("paper", -0.8), ("transferattack", 0.8)])
def test_the_difference_along_the_gradient(small_model, small_images, variant, share):
    model, clean = Pixels(small_model), double(small_images)
    x, momentum = clean, torch.zeros_like(clean)
    for _ in range(10):
        here = slope(model, x)
        there = slope(model, x + 2.55 * mean_one(here))
        momentum = momentum + mean_one(1.8 * here + share * there)
        x = clipped(x + 1.6 * momentum.sign(), clean)
    keys = keys_of("gnp", {"points": [{"gnp": {"variant": variant}}]})
    assert_same(ours(model, keys, small_images), x)


def test_it_is_the_gradient_of_the_penalised_gain(small_model, small_images):
    """gain - lambda |g|, lambda lambda / |g| = beta * reach / mean |g|, by double backward."""
    model = Pixels(small_model)
    x = double(small_images).requires_grad_(True)
    gain = functional.cross_entropy(model(x), torch.from_numpy(LABELS), reduction="sum")
    (gradient,) = torch.autograd.grad(gain, x, create_graph=True)
    norms = gradient.flatten(1).norm(dim=1)
    weights = (20 * 0.05 * norms / gradient.abs().mean((1, 2, 3))).detach()
    (of_norms,) = torch.autograd.grad((weights * norms).sum(), x)

    class Step:
        origin = x.detach()

        @staticmethod
        def gradient(image, sample, moved):
            return slope(model, image)

    rule = GradientNormPenalty(reach=0.05, beta=20)
    found = rule.gradient(torch.zeros_like(x), Step, lambda delta: slope(model, Step.origin + delta), {})
    penalty, expected = (found - gradient).detach(), -of_norms
    assert functional.cosine_similarity(penalty.flatten(1), expected.flatten(1)).min() > 0.999
    torch.testing.assert_close(penalty.flatten(1).norm(dim=1), expected.flatten(1).norm(dim=1), rtol=0.02, atol=0)
