"""Momentum with each normalisation, and the logit attack, against their formulas."""

from __future__ import annotations

import pytest
import torch

from tests.study.attacks.components.written_out import (
    GOALS,
    LABELS,
    PIXELS,
    SIGN,
    attacked,
    clip,
    diversified,
    gradient,
    n,
    smoothed,
    streams,
)  # fmt: skip

NORMS = {
    "mean": n,
    "l1": lambda g: g / g.abs().sum((1, 2, 3), keepdim=True),
    "l2": lambda g: g / g.square().sum((1, 2, 3), keepdim=True).sqrt(),
    "none": lambda g: g,
}


@pytest.mark.parametrize("norm", NORMS)
def test_each_normalisation(small_images, norm):
    """With a look-ahead, which shows the length of the momentum and not only its signs."""
    keys = {"step": "sign", "steps": 4, "epsilon": 16, "points": ["nesterov"]}
    keys["updates"] = [{"momentum": {"decay": 0.7, "normalise": norm}}]
    x = clean = torch.from_numpy(small_images).double()
    momentum = torch.zeros_like(clean)
    for _ in range(4):
        ahead = x + 4 * 0.7 * momentum
        momentum = 0.7 * momentum + NORMS[norm](gradient(PIXELS, ahead, "untargeted"))
        x = clip(x + 4 * momentum.sign(), clean)
    assert (attacked(PIXELS, None, keys, small_images) - x).abs().max() < 1e-4


def logit(logits, goal):
    return SIGN[goal] * logits.gather(1, torch.from_numpy(LABELS)[:, None]).sum()


@pytest.mark.parametrize("goal", GOALS)
def test_logit_is_the_printed_algorithm(small_images, goal):
    """Zhao et al. 2021: diversity, kernel, a momentum of raw gradients, steps of 2."""
    x = clean = torch.from_numpy(small_images).double()
    momentum, changed = torch.zeros_like(clean), 0
    for step in range(12):
        words = streams().integers(4, "diversity", step, 0)
        changed += int((words[:, 0] / 2**64 < 0.7).sum())
        g = gradient(lambda x, words=words: PIXELS(diversified(x, words, 0.7)), x, goal, logit)
        momentum = momentum + smoothed(g)
        x = clip(x + 2 * momentum.sign(), clean)
    assert 0.5 < changed / (12 * 6) < 0.9
    assert (attacked(PIXELS, "logit", {"steps": 12}, small_images, goal) - x).abs().max() < 1e-4


def test_a_normalised_momentum_gives_other_images(small_images):
    """The test above can fail: the sum of normalised gradients has other signs."""
    raw = attacked(PIXELS, "logit", {"steps": 12}, small_images)
    other = attacked(PIXELS, "logit", {"steps": 12, "updates": ["momentum"]}, small_images)
    assert (raw - other).abs().max() > 1
