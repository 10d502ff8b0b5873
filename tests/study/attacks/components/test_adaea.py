"""AdaEA against its equations written out image by image."""

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
)


def naive(models, image, origin, label, *, beta=10.0, threshold=-0.3, authors=False, goal="untargeted"):
    count = len(models)
    gradients = [
        naive_gradient(lambda one, model=model: loss(model(one[None])[0], label, goal), image) for model in models
    ]
    made = [kept(image + SIZE * gradient.sign(), origin) for gradient in gradients]
    raised = torch.zeros(count, dtype=torch.float64)
    for j in range(count):
        for i in range(count):
            if i != j:
                theirs, own = (float(loss(models[i](made[k][None])[0], label)) for k in (j, i))
                raised[j] += beta * (theirs / own if goal == "untargeted" else own / theirs)
    weights = raised.softmax(0)
    found = naive_gradient(
        lambda one: loss(sum(w * model(one[None])[0] for w, model in zip(weights, models, strict=True)), label, goal),
        image,
    )
    masked = 0
    for row in range(image.shape[1]):
        for column in range(image.shape[2]):
            means = []
            for i in range(count):
                cosines = [
                    float(torch.dot(a, b) / (a.norm() * b.norm()))
                    for j in range(count)
                    if j != i
                    for a, b in [(gradients[i][:, row, column], gradients[j][:, row, column])]
                ]
                means.append(sum(cosines) / (count - 1))
            if sum(means[:-1] if authors else means) / count < threshold:
                found[:, row, column] = 0
                masked += 1
    return found, weights, masked


@pytest.mark.parametrize("variant", ["paper", "authors"])
@pytest.mark.parametrize("count", [2, 3])
def test_the_equations(count, variant):
    models, delta = networks(count), moved()
    found = asked(models, {"adaea": {"variant": variant}}, delta=delta)
    masked, seen = 0, []
    for row, origin in enumerate(clean()):
        wanted, weights, left = naive(models, origin + delta[row], origin, LABELS[row], authors=variant == "authors")
        torch.testing.assert_close(found[row], wanted, rtol=1e-6, atol=1e-10)
        masked += left
        seen.append(weights)
    assert 0 < masked < 4 * 64
    # Every image has its own weights, and none is sure of one model.
    assert all((one - seen[0]).abs().max() > 1e-3 for one in seen[1:])
    assert max(float(one.max()) for one in seen) < 0.999


def test_a_targeted_goal_and_numbers_of_its_own():
    models = networks(3)
    found = asked(models, {"adaea": {"beta": 2.0, "threshold": 0.1}}, goal="targeted")
    for row, origin in enumerate(clean()):
        wanted, _, _ = naive(models, origin, origin, LABELS[row], beta=2.0, threshold=0.1, goal="targeted")
        torch.testing.assert_close(found[row], wanted, rtol=1e-6, atol=1e-10)


def test_one_model_is_its_gradient():
    models = networks(1)
    assert torch.equal(asked(models, "adaea"), asked(models, "loss"))


def test_models_that_are_sure_give_finite_weights():
    """Logits of hundreds: cross-entropies are 0 or so."""
    models = networks(2)
    for model in models:
        model.second *= 1000
    assert asked(models, "adaea").isfinite().all()
