"""SMER against its loop written out image by image, with autograd for the weights."""

from __future__ import annotations

import functools

import pytest
import torch
from torch.nn import functional

from study.attacks.components.smer import log_loss_gradient
from tests.study.attacks.components.ensemble_at import (
    LABELS,
    SIZE,
    asked,
    clean,
    kept,
    loss,
    moved,
    naive_gradient,
    networks,
    words,
)


def order_of(count, step, rounds=4):
    drawn = words("smer", rounds * count, step)
    blocks = [drawn[begin : begin + count] for begin in range(0, len(drawn), count)]
    return [sorted(range(count), key=lambda model, block=block: block[model]) for block in blocks]


def loss_of(model, weight, label, goal, image):
    return loss(weight * model(image[None])[0], label, goal)


def naive(models, image, origin, label, weights, order, *, size=SIZE, decay=1.0, rate=0.02, shrink=0.002, goal):
    total, there = torch.zeros_like(image), image
    for block in order:
        for model in block:
            scaled = functools.partial(loss_of, models[model], float(weights[model]), label, goal)
            one = naive_gradient(scaled, there)
            learnt = weights.clone().requires_grad_(True)
            group = sum(learnt[k] * models[k](there[None])[0] for k in range(len(models))) / len(models)
            outer = -torch.log(functional.cross_entropy(group[None], label[None]))
            (slope,) = torch.autograd.grad(outer if goal == "untargeted" else -outer, learnt)
            weights = weights - rate * (slope + shrink * weights)
            total = decay * total + one / one.abs().mean()
            there = kept(there + size * total.sign(), origin)
    return total, weights


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("goal", ["untargeted", "targeted"])
def test_two_steps(count, goal):
    """The weights go on in the second step, and every image has its own."""
    models, state = networks(count), {}
    weights = [torch.ones(count, dtype=torch.float64)] * 4
    for step, delta in enumerate((torch.zeros_like(clean()), moved())):
        found = asked(models, "smer", delta=delta, state=state, step=step, goal=goal)
        order = order_of(count, step)
        for row, origin in enumerate(clean()):
            wanted, weights[row] = naive(
                models, origin + delta[row], origin, LABELS[row], weights[row], order, goal=goal
            )
            torch.testing.assert_close(found[row], wanted, rtol=1e-5, atol=1e-7)
    (held,) = state.values()
    torch.testing.assert_close(held, torch.stack(weights, 1), rtol=1e-6, atol=1e-8, check_dtype=False)
    assert (held - 1).abs().min() > 1e-4


def test_numbers_of_its_own():
    models = networks(2)
    changed = {"rounds": 2, "decay": 0.5, "size": 4.0, "rate": 0.5, "shrink": 0.1}
    found = asked(models, {"smer": changed})
    numbers = {key: value for key, value in changed.items() if key != "rounds"}
    for row, origin in enumerate(clean()):
        begin = torch.ones(2, dtype=torch.float64)
        wanted, _ = naive(
            models, origin, origin, LABELS[row], begin, order_of(2, 0, rounds=2), goal="untargeted", **numbers
        )
        torch.testing.assert_close(found[row], wanted, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("scale", [1.0, 30.0, 3000.0])
def test_the_slope_of_a_loss_that_rounds_to_zero(scale):
    """In float32, against autograd in double precision; where that is 0 too, log L falls as fast as the margin."""
    drawn = torch.Generator().manual_seed(1)
    logits = scale * torch.randn(3, 5, 6, generator=drawn, dtype=torch.float64)
    labels = logits.mean(0).argmax(1)
    weights = torch.ones(3, 5, dtype=torch.float64, requires_grad=True)
    mean = (weights[..., None] * logits).mean(0)
    others = mean.scatter(1, labels[:, None], float("-inf"))
    margin = others.logsumexp(1) - mean.gather(1, labels[:, None])[:, 0]
    log_loss = torch.where(margin < -30, margin, functional.softplus(margin.clamp_min(-30)).log())
    (wanted,) = torch.autograd.grad(log_loss.sum(), weights)
    found = log_loss_gradient(weights.detach().float(), logits.float(), labels)
    torch.testing.assert_close(found.double(), wanted, rtol=1e-4, atol=1e-5 * scale)
