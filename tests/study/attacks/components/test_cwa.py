"""CWA against its algorithm written out for one image and one model after another."""

from __future__ import annotations

import pytest
import torch

from study.attacks import Attack
from tests.study.attacks.components.ensemble_at import (
    EPSILON,
    LABELS,
    asked,
    clean,
    kept,
    loss,
    moved,
    naive_gradient,
    networks,
)


def naive(models, image, origin, label, momentum, *, size=63_750.0, reverse=EPSILON / 15, decay=1.0, authors=False):
    """The way that the inner loop takes, and its momentum."""
    if authors:
        first = naive_gradient(lambda one: loss(sum(model(one[None])[0] for model in models), label), image)
    else:
        first = sum(
            naive_gradient(lambda one, model=model: loss(model(one[None])[0], label), image) for model in models
        )
    there = kept(image - reverse * first.sign(), origin)
    for model in models:
        one = naive_gradient(lambda place, model=model: loss(model(place[None])[0], label), there)
        momentum = decay * momentum + one / one.square().sum().sqrt()
        there = kept(there + size * momentum, origin)
    return there - image, momentum


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("variant", ["paper", "authors"])
def test_two_steps(count, variant):
    """The inner momentum goes on in the second step."""
    models, state = networks(count), {}
    momenta = [torch.zeros(3, 8, 8, dtype=torch.float64)] * 4
    for step, delta in enumerate((torch.zeros_like(clean()), moved())):
        found = asked(models, {"cwa": {"variant": variant}}, delta=delta, state=state, step=step)
        for row, origin in enumerate(clean()):
            way, momenta[row] = naive(
                models, origin + delta[row], origin, LABELS[row], momenta[row], authors=variant == "authors"
            )
            torch.testing.assert_close(found[row], way, rtol=0, atol=1e-6)
    assert found.abs().max() > EPSILON  # From one edge of the budget to the other.


def test_numbers_of_its_own():
    models = networks(2)
    found = asked(models, {"cwa": {"reverse": 3.0, "size": 200.0, "decay": 0.5}})
    begun = torch.zeros(3, 8, 8, dtype=torch.float64)
    for row, origin in enumerate(clean()):
        way, _ = naive(models, origin, origin, LABELS[row], begun, size=200.0, reverse=3.0, decay=0.5)
        torch.testing.assert_close(found[row], way, rtol=1e-8, atol=1e-10)


def test_without_epsilon_it_needs_a_length():
    keys = {"step": "sign", "steps": 2, "step_size": 1, "budget": {"rmsd": 5}, "fusion": "cwa"}
    with pytest.raises(ValueError, match="back by epsilon / 15"):
        Attack.model_validate(keys)
    Attack.model_validate(keys | {"fusion": {"cwa": {"reverse": 1}}})
