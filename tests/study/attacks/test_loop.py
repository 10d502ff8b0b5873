"""The loop against other libraries and against the papers' formulas written out."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torchattacks

from study.attacks import Attack
from study.attacks.loop import Engine, ImageBatch, craft
from study.attacks.presets import keys_of
from study.errors import StudyError

LABELS = np.array([1, 2, 3, 4, 5, 6])
IDS = [f"image{index}" for index in range(6)]
REFERENCE = Engine(batch=3, layout="contiguous")


def pixels_model(model, scale=40.0):
    """`model` on pixels, with logits spread so that predictions are neither flat nor saturated."""
    return lambda x: scale * model(x / 255 - 0.5)


def run(models, attack, clean, goal="untargeted", labels=LABELS, images=IDS, engine=REFERENCE, **more):
    given = ImageBatch(clean, labels, images)
    return craft(models, attack, goal, given, **({"key": ("test",), "engine": engine} | more))


@pytest.mark.parametrize(
    ("attack", "theirs"),
    [
        ({"step": "sign", "steps": 1, "epsilon": 16}, lambda m: torchattacks.FGSM(m, eps=16 / 255)),
        (
            {"step": "sign", "steps": 10, "step_size": 2, "epsilon": 16},
            lambda m: torchattacks.PGD(m, eps=16 / 255, alpha=2 / 255, steps=10, random_start=False),
        ),
        (
            {"step": "sign", "steps": 10, "momentum": 1, "epsilon": 16},
            lambda m: torchattacks.MIFGSM(m, eps=16 / 255, alpha=1.6 / 255, steps=10, decay=1.0),
        ),
    ],
    ids=["fgsm", "igsm", "mi"],
)
@pytest.mark.parametrize("goal", ["untargeted", "targeted"])
def test_equals_torchattacks(small_model, small_images, attack, theirs, goal):
    ours = run([pixels_model(small_model)], Attack.model_validate(attack), small_images, goal)
    model = pixels_model(small_model)
    other = theirs(_Wrapped(lambda x: model(x * 255)))
    labels = torch.from_numpy(LABELS)
    if goal == "targeted":
        other.set_mode_targeted_by_label(quiet=True)
    their_pixels = np.rint(other(torch.from_numpy(small_images) / 255, labels).numpy() * 255)
    # Their images live in 0..1, so a step may round to the other side of a gradient's zero in very few pixels.
    assert (their_pixels != ours.pixels).mean() < 0.002
    assert ours.linf.max() == 16


class _Wrapped(torch.nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


def test_optimization_is_adam_on_log_one_minus_p(small_model, small_images):
    """Liu et al. 2017, section 3.1, with torch's own Adam and the formula as printed, in double precision."""
    ours = run([pixels_model(small_model)], Attack.model_validate(keys_of("optimization", {"steps": 20})), small_images)
    model = pixels_model(small_model.double())
    clean = torch.from_numpy(small_images).double()
    image = clean.clone().requires_grad_(True)
    adam = torch.optim.Adam([image], lr=4)
    for _ in range(20):
        adam.zero_grad()
        probability = model(image).softmax(1)[torch.arange(6), LABELS]
        (-torch.log(1 - probability)).sum().backward()
        adam.step()
        with torch.no_grad():
            image.clamp_(0, 255)
    small_model.float()
    theirs = image.detach().round().numpy()
    assert np.abs(theirs - ours.pixels).max() <= 1
    assert (theirs != ours.pixels).mean() < 0.02


def test_summed_updates_are_one_adam_per_model(small_model, small_images):
    """Liu et al. 2017, section 5: an Adam for each model at its own learning rate, the updates added up."""
    functions = [pixels_model(small_model, 40.0), pixels_model(small_model, -25.0)]
    attack = Attack.model_validate(
        keys_of("optimization", {"steps": 5, "fusion": "summed-updates", "learning_rate": 8})
    )
    ours = run(functions, attack, small_images, "targeted")
    image = torch.from_numpy(small_images).float()
    state = [(torch.zeros_like(image), torch.zeros_like(image)) for _ in functions]
    for step in range(1, 6):
        total = torch.zeros_like(image)
        for index, function in enumerate(functions):
            x = image.clone().requires_grad_(True)
            loss = torch.nn.functional.cross_entropy(function(x), torch.from_numpy(LABELS), reduction="sum")
            (gradient,) = torch.autograd.grad(loss, x)
            first = 0.9 * state[index][0] + 0.1 * gradient
            second = 0.999 * state[index][1] + 0.001 * gradient**2
            state[index] = (first, second)
            total -= 8 * (first / (1 - 0.9**step)) / ((second / (1 - 0.999**step)).sqrt() + 1e-8)
        image = (image + total).clamp(0, 255)
    theirs = image.round().numpy()
    assert np.abs(theirs - ours.pixels).max() <= 1
    assert (theirs != ours.pixels).mean() < 0.02


def test_fast_gradient_is_the_printed_formula(small_model, small_images):
    """Liu et al. 2017, section 2.2: clip(x + B g / |g|), with B where the RMSD is met."""
    attack = Attack.model_validate(keys_of("fg", {"budget": {"rmsd": 12.0}}))
    ours = run([pixels_model(small_model)], attack, small_images)
    x = torch.from_numpy(small_images).double().requires_grad_(True)
    probability = pixels_model(small_model.double())(x).softmax(1)[torch.arange(6), LABELS]
    (gradient,) = torch.autograd.grad(torch.log(1 - probability).sum(), x)
    small_model.float()
    for index in range(6):
        direction = gradient[index] / gradient[index].norm()
        low, high = 0.0, 1e5
        for _ in range(100):
            scale = (low + high) / 2
            moved = (x[index] + scale * direction).clamp(0, 255) - x[index]
            low, high = (scale, high) if moved.square().mean().sqrt() < 12 else (low, scale)
        theirs = (x[index] + high * direction).clamp(0, 255).detach().numpy()
        assert np.abs(theirs - ours.pixels[index]).max() <= 1
        assert ours.rmsd[index] == pytest.approx(12, abs=0.02)


@pytest.mark.parametrize("fusion", ["probability", "logit", "loss"])
@pytest.mark.parametrize("name", ["mi", "optimization", "fg"])
def test_an_ensemble_of_one_is_the_model(small_model, small_images, fusion, name):
    changes = {"budget": {"rmsd": 9.0}} if name == "fg" else {"steps": 4}
    alone = run([pixels_model(small_model)], Attack.model_validate(keys_of(name, changes)), small_images)
    fused = Attack.model_validate(keys_of(name, changes | {"fusion": fusion}))
    assert np.array_equal(run([pixels_model(small_model)], fused, small_images).pixels, alone.pixels)


@pytest.mark.parametrize("name", ["optimization", "fg", "fgs", "fgsm", "igsm", "mi"])
def test_neighbours_order_and_shards_change_nothing(small_model, small_images, name):
    changes = {"budget": {"rmsd": 9.5}} if name in ("fg", "fgs") else {}
    attack = Attack.model_validate(keys_of(name, changes))
    whole = run([pixels_model(small_model)], attack, small_images)
    order = [4, 1, 5, 0, 3, 2]
    for part in (order, order[:2], order[3:4]):
        again = run(
            [pixels_model(small_model)],
            attack,
            small_images[part],
            labels=LABELS[part],
            images=[IDS[index] for index in part],
        )
        assert np.array_equal(again.pixels, whole.pixels[part])
        assert np.array_equal(again.rmsd, whole.rmsd[part])


def test_a_zero_gradient_leaves_the_image(small_images):
    flat = lambda x: torch.zeros(len(x), 10) + 0 * x.sum((1, 2, 3))[:, None]  # noqa: E731
    for name in ("mi", "igsm", "optimization"):
        crafted = run([flat], Attack.model_validate(keys_of(name, {})), small_images)
        assert np.array_equal(crafted.pixels, small_images)
    for name in ("fg", "fgs"):
        attack = Attack.model_validate(keys_of(name, {"budget": {"rmsd": 9}}))
        assert np.array_equal(run([flat], attack, small_images).pixels, small_images)


def test_a_gradient_that_is_not_finite_names_its_image(small_model, small_images):
    model = pixels_model(small_model)

    def broken(x):
        poison = torch.where((x[:, 0, 0, 0] == float(small_images[2, 0, 0, 0]))[:, None], math.nan, 1.0)
        return model(x) * poison

    with pytest.raises(StudyError, match="the gradient of image2 is not finite"):
        run([broken], Attack.model_validate(keys_of("igsm", {})), small_images)
