"""SVRE against its algorithm written out for one image and one model after another."""

from __future__ import annotations

import pytest
import torch

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


def naive(models, image, origin, label, order, *, size=SIZE, decay=1.0, authors=False, goal="untargeted"):
    def of(model, place):
        return naive_gradient(lambda one: loss(models[model](one[None])[0], label, goal), place)

    if authors:
        everyone = naive_gradient(
            lambda one: loss(sum(model(one[None])[0] for model in models) / len(models), label, goal), image
        )
    else:
        everyone = sum(of(model, image) for model in range(len(models))) / len(models)
    total, there = torch.zeros_like(image), image
    for model in order:
        term = of(model, there) - (of(model, image) - everyone)
        if authors:
            term = term / term.abs().mean()
        total = decay * total + term
        there = kept(there + size * total.sign(), origin)
    return total


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("variant", ["paper", "authors"])
def test_the_algorithm(count, variant):
    models, delta = networks(count), moved()
    found = asked(models, {"svre": {"variant": variant}}, delta=delta, step=2)
    order = [word % count for word in words("svre", 4 * count, step=2)]
    assert count == 1 or len(set(order)) > 1
    for row, origin in enumerate(clean()):
        wanted = naive(models, origin + delta[row], origin, LABELS[row], order, authors=variant == "authors")
        torch.testing.assert_close(found[row], wanted, rtol=1e-8, atol=1e-12)


def test_numbers_of_its_own():
    models = networks(2)
    found = asked(models, {"svre": {"inner": 3, "decay": 0.5, "size": 4.0}}, goal="targeted")
    order = [word % 2 for word in words("svre", 6)]
    for row, origin in enumerate(clean()):
        wanted = naive(models, origin, origin, LABELS[row], order, size=4.0, decay=0.5, goal="targeted")
        torch.testing.assert_close(found[row], wanted, rtol=1e-8, atol=1e-12)


def test_weights_of_models():
    """The mean gradient is weighted: with the whole weight on one model, the terms at x begin with its gradient."""
    models = networks(2)
    single = asked(models[1:], "loss")
    found = asked(models, {"svre": {"inner": 1}}, weights={"m0": 1e-6, "m1": 1.0}, step=1)
    order = [word % 2 for word in words("svre", 2, step=1)]
    origin = clean()
    total, there = torch.zeros_like(origin), origin
    for model in order:
        at = [asked(models[model : model + 1], "loss", delta=place - origin) for place in (there, origin)]
        total = total + at[0] - (at[1] - single)
        there = torch.stack([kept(one, two) for one, two in zip(there + SIZE * total.sign(), origin, strict=True)])
    torch.testing.assert_close(found, total, rtol=1e-4, atol=1e-6)
