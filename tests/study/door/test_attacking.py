"""study.attack: against another library, in every kind of images, and what it refuses."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import pytest
import torch
import torchattacks

import study
from study.attacks import registry
from study.attacks.kinds import View, ViewContext

LABELS = torch.tensor([1, 2, 3, 4, 5, 6])


class Sharp(torch.nn.Module):
    """The tests' small network with logits that are neither flat nor saturated, for images in 0..1."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, x):
        return 40 * self.network(x - 0.5)


@pytest.fixture
def model(small_model):
    return Sharp(small_model).eval()


@pytest.mark.parametrize("goal", ["untargeted", "targeted"])
def test_equals_torchattacks(model, small_images, goal):
    images = torch.from_numpy(small_images) / 255
    ours = study.attack("mi", epsilon=8)(model, images, LABELS, goal=goal)
    theirs = torchattacks.MIFGSM(model, eps=8 / 255, alpha=0.8 / 255, steps=10, decay=1.0)
    if goal == "targeted":
        theirs.set_mode_targeted_by_label(quiet=True)
    expected = (theirs(images, LABELS) * 255).round()
    assert ours.dtype == torch.float32
    # Their images live in 0..1, so a step may round to the other side of a gradient's zero in very few pixels.
    assert ((ours * 255).round() != expected).float().mean() < 0.002
    assert ((ours - images).abs() * 255).max() <= 8.001


def test_kinds_of_images_come_back_and_hold_the_same(model, small_images):
    attack = study.attack("mi+di", epsilon=8, steps=3)
    whole = attack(model, small_images, LABELS.numpy())
    assert isinstance(whole, np.ndarray)
    assert whole.dtype == np.uint8
    tensor = attack(model, torch.from_numpy(small_images), LABELS)
    assert isinstance(tensor, torch.Tensor)
    assert np.array_equal(tensor.numpy(), whole)
    floats = attack(model, torch.from_numpy(small_images).double() / 255, LABELS)
    assert floats.dtype == torch.float64
    assert np.array_equal((floats * 255).round().numpy().astype(np.uint8), whole)


def test_a_model_of_normalised_images(model, small_images):
    mean, std = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
    column = [torch.tensor(one).view(1, 3, 1, 1) for one in (mean, std)]

    class Normalised(torch.nn.Module):
        def forward(self, x):
            return model(x * column[1] + column[0])

    attack = study.attack("igsm", epsilon=8, steps=3, step_size=3)
    plain = attack(model, small_images, LABELS)
    given = (torch.from_numpy(small_images) / 255 - column[0]) / column[1]
    found = attack(Normalised().eval(), given, LABELS, mean=mean, std=std)
    pixels = ((found * column[1] + column[0]) * 255).round().numpy().astype(np.uint8)
    assert (pixels != plain).mean() < 0.002
    same = attack(Normalised().eval(), small_images, LABELS, mean=mean, std=std)
    assert np.array_equal(same, pixels)


def test_neighbours_order_and_batch_change_nothing(model, small_images):
    attack = study.attack("mi+di", epsilon=8, steps=3)
    whole = attack(model, small_images, LABELS)
    order = [4, 1, 5]
    assert np.array_equal(attack(model, small_images[order], LABELS[order]), whole[order])
    other = attack(model, small_images, LABELS, seed=1)
    assert not np.array_equal(other, whole)


@pytest.fixture
def forgotten():
    """Components that a test makes known are known to no other test."""
    before = set(registry.all_components())
    yield
    for one in set(registry.all_components()) - before:
        registry.unregister(one)


@pytest.mark.usefixtures("forgotten")
def test_an_ensemble_and_a_class_of_a_script(model, small_images):
    class Mirror(View):
        name: ClassVar[str] = "mirror of a script"

        def make(self, image: torch.Tensor, given: ViewContext) -> torch.Tensor:
            return image.flip(-1)

    attack = study.attack({"step": "sign", "steps": 2, "epsilon": 8, "views": [Mirror()]})
    found = attack([model, model], small_images, LABELS)
    alone = attack(model, small_images, LABELS)
    assert np.array_equal(found, alone)
    assert not np.array_equal(alone, study.attack("bim", epsilon=8, steps=2)(model, small_images, LABELS))


def test_another_librarys_attack(model, small_images):
    attack = study.attack({"external": "torchattacks:PIFGSM", "epsilon": 8})
    found = attack(model, small_images, LABELS)
    assert np.abs(found.astype(int) - small_images).max() <= 8


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda model, x: study.attack("mj"), "there is no preset named 'mj'"),
        (lambda model, x: study.attack("mi", epsilon=8 / 255), "write 8 if"),
        (lambda model, x: study.attack("mi", epsilon=1), "0..1, or 1/255 if it is in pixel"),
        (lambda model, x: study.attack("mi", stepps=3), "there is no key 'stepps'"),
        (lambda model, x: study.attack("fg"), "needs a whole study"),
        (lambda model, x: study.attack("mi")(model.train(), x, LABELS), "training mode"),
        (lambda model, x: study.attack("mi")(lambda y: y, x, LABELS), "a model must be a torch module"),
        (lambda model, x: study.attack("mi")(model, x.astype(np.float32), LABELS), "0..1"),
        (lambda model, x: study.attack("mi")(model, x[0], LABELS), "shape"),
        (lambda model, x: study.attack("mi")(model, x, LABELS, mean=[0.5] * 3), "only one of them is given"),
        (lambda model, x: study.attack("mi")(model, x, LABELS, std=0.5), "only one of them is given"),
        (lambda model, x: study.attack("mi")(model, x / 255, LABELS, mean=0.5), "only one of them is given"),
        (lambda model, x: study.attack("mi")(model, x, LABELS[:2]), "the number of images is 6"),
        (lambda model, x: study.attack("mi")(torch.nn.Flatten(0).eval(), x, LABELS), "logits (N, classes)"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_said(model, small_images, call, said):
    with pytest.raises(study.StudyError) as error:
        call(model, small_images)
    assert said in str(error.value)


def test_describe_says_every_number():
    text = study.attack("vmi", epsilon=8).describe()
    for part in ("momentum: 1.0", "step_size: 0.8", "samples: 20", "beta: 1.5", "epsilon: 8.0", "190 gradients"):
        assert part in text
