"""First stages, gradients asked by views, and mean logits, against naive loops."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import numpy as np
import pytest
import torch
from torch.nn import functional

from study.attacks import Attack, own_code, registry
from study.attacks.components.objectives import CrossEntropy
from study.attacks.conformance import counted
from study.attacks.kinds import EnsembleRule, Point, View, at_view
from study.attacks.loop import Engine, ImageBatch, craft, perturbations

LABELS = np.array([1, 2, 3, 4, 5, 6])
IDS = [f"image{index}" for index in range(6)]
ENGINE = Engine(batch=4, layout="contiguous")


class Net(torch.nn.Module):
    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, pixels):
        return 40 * self.network(pixels / 255 - 0.5)


@pytest.fixture
def model(small_model):
    return Net(small_model)


@pytest.fixture
def own():
    """Components that live for one test."""
    made = []

    def known(component):
        made.append(registry.register(component))
        return component

    yield known
    for one in made:
        registry.unregister(one)


def delta_of(models, keys, clean, engine=ENGINE, rows=range(6)):
    given = ImageBatch(clean, LABELS, IDS).take(rows)
    found = perturbations(models, Attack.model_validate(keys), "untargeted", given, key=("stages",), engine=engine)
    return torch.cat([deltas[-1] for _, deltas, _ in found])


def naive_gradient(model, image, loss_of):
    image = image.detach().requires_grad_(True)
    (found,) = torch.autograd.grad(loss_of(model, image), image)
    return found


def test_a_first_stage_gives_its_finished_images(model, small_images, own):
    """A point rule that returns the first stage's perturbation steps along its sign."""

    @own
    class Along(Point):
        name: ClassVar[str] = "along"
        uses_first: ClassVar[bool] = True

        def gradient(self, delta, step, inner, state):
            return step.first - step.origin

        def calls(self, steps):
            return 0, 0

    first = {"step": "sign", "steps": 3, "momentum": 1, "epsilon": 8}
    keys = {"step": "sign", "steps": 1, "epsilon": 4, "points": ["along"], "first": first}
    attack = Attack.model_validate(keys)
    assert attack.gradients(1, 2) == 6
    given = ImageBatch(small_images, LABELS, IDS)
    made = craft([model], Attack.model_validate(first), "untargeted", given, key=("stages",), engine=ENGINE)
    moved = np.sign(made.pixels.astype(int) - small_images)
    torch.testing.assert_close(delta_of([model], keys, small_images), 4.0 * torch.from_numpy(moved).float())


def test_a_first_stage_has_the_budget_of_the_attack(own):
    @own
    class Uses(Point):
        name: ClassVar[str] = "uses"
        uses_first: ClassVar[bool] = True

    base = {"step": "sign", "epsilon": 4, "points": ["uses"]}
    assert Attack.model_validate({**base, "first": "mi"}).first.budget.epsilon == 4
    assert Attack.model_validate({**base, "first": {"preset": "mi", "epsilon": 2}}).first.budget.epsilon == 2
    assert Attack.model_validate({**base, "first": {"preset": "mi", "steps": 5}}).first.steps == 5
    for wrong, message in (
        ({**base}, "needs a `first` stage"),
        ({"step": "sign", "epsilon": 4, "first": "mi"}, "remove `first`"),
        ({**base, "first": "mii"}, "no preset named 'mii'"),
        ({**base, "first": {"preset": "mi", "checkpoints": [3]}}, "cannot have checkpoints"),
    ):
        with pytest.raises(ValueError, match=message):
            Attack.model_validate(wrong)


def test_a_view_can_ask_for_a_gradient(model, small_images, own):
    """A view that first moves along the gradient at the image; the gradient is taken there (at_view)."""

    @own
    class Ahead(View):
        name: ClassVar[str] = "ahead"

        @property
        def inner_gradients(self) -> int:
            return 1

        def make(self, image, given):
            return at_view(image, image + 3 * given.gradient(image).sign())

    keys = {"step": "sign", "steps": 2, "step_size": 2, "epsilon": 8, "views": ["ahead"]}
    labels = torch.from_numpy(LABELS)
    origin = torch.from_numpy(small_images).float()
    delta = torch.zeros_like(origin)

    def loss(model, image):
        return functional.cross_entropy(model(image), labels, reduction="sum")

    for _ in range(2):
        delta = (origin + delta).clamp(0, 255) - origin
        there = origin + delta
        ahead = there + 3 * naive_gradient(model, there, loss).sign()
        delta = delta + 2 * naive_gradient(model, ahead, loss).sign()
    found = delta_of([model], keys, small_images)
    assert (found != delta).float().mean() < 0.002  # Signs of gradients next to zero.
    with counted([model]) as rows:
        delta_of([model], keys, small_images, rows=range(4))
    assert rows["gradients"] / 4 == Attack.model_validate(keys).gradients(2, 1) == 4


@pytest.mark.parametrize("limit", [4, 8, 64])
def test_logits_are_averaged_over_views(model, small_images, own, limit):
    @own
    class Brighter(View):
        name: ClassVar[str] = "brighter"
        averages: ClassVar[str] = "logits"
        copies: int = 3

        def make(self, image, given):
            return image * (1 - 0.2 * given.copy)

    keys = {"step": "sign", "steps": 1, "epsilon": 8, "views": ["brighter"]}
    labels = torch.from_numpy(LABELS)

    def loss(model, image):
        logits = sum(model(image * (1 - 0.2 * copy)) for copy in range(3)) / 3
        return functional.cross_entropy(logits, labels, reduction="sum")

    origin = torch.from_numpy(small_images).float()
    expected = 8 * naive_gradient(model, origin, loss).sign()
    found = delta_of([model], keys, small_images, engine=Engine(batch=4, max_pass_images=limit, layout="contiguous"))
    assert (found != expected).float().mean() < 0.002
    # The place in a batch changes no bit.
    order = [5, 2, 0]
    again = delta_of([model], keys, small_images, Engine(batch=4, max_pass_images=limit, layout="contiguous"), order)
    assert torch.equal(again, found[order])


def test_ensemble_rules_see_logits_and_the_budget(model, small_images, own):
    seen = []

    @own
    class Watches(EnsembleRule):
        name: ClassVar[str] = "watches"

        def gradient(self, image, models, sample, state):
            far = models.project(torch.full_like(image, 99.0))
            loss = CrossEntropy().loss(models.logits(1, image), models.labels, models.goal)
            seen.append(
                (models.epsilon, models.size, float((far).max()), bool((models.origin + far).max() <= 255), loss)
            )
            return models.of(0, image)

        def cost(self, sources):
            return 1

        def forwards(self, sources):
            return 1

    keys = {"step": "sign", "steps": 2, "epsilon": 8, "fusion": "watches"}
    other = Net(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.LazyLinear(10)))
    other(torch.from_numpy(small_images).float())
    with counted([model, other]) as rows:
        delta_of([model, other], keys, small_images, rows=range(4))
    attack = Attack.model_validate(keys)
    assert rows == {"gradients": 4 * attack.gradients(2, 2), "forwards": 4 * attack.forwards(2, 2)}
    epsilon, size, moved, inside, loss = seen[0]
    assert (epsilon, size, moved, inside) == (8, 4, 8, True)
    expected = functional.cross_entropy(
        other(torch.from_numpy(small_images[:4]).float()), torch.from_numpy(LABELS[:4]), reduction="none"
    )
    torch.testing.assert_close(loss, expected.detach(), rtol=1e-4, atol=1e-4)


def test_features_with_mean_logits_are_refused(own):
    from study.attacks.kinds import FeatureObjective

    @own
    class Flat(FeatureObjective):
        name: ClassVar[str] = "flat"

        def layers(self, network):
            return []

        def loss(self, features: Mapping, prepared: Mapping, logits, labels, goal):
            return logits.sum(-1)

    @own
    class Mean(View):
        name: ClassVar[str] = "mean-logits"
        averages: ClassVar[str] = "logits"

        def make(self, image, given):
            return image

    keys = {"step": "sign", "epsilon": 8, "objective": "flat", "fusion": "loss", "views": ["mean-logits"]}
    with pytest.raises(ValueError, match="needs an objective that reads logits"):
        Attack.model_validate(keys)


@pytest.mark.parametrize(
    ("keys", "alone", "joint"),
    [
        ({"views": ["dem"], "forward": ["ftm"]}, "ftm", "dem"),
        (
            {"views": ["smoothing", {"dem": {"frames": [1.3]}}], "forward": ["gaussian_weights"]},
            "gaussian_weights",
            "dem",
        ),
        ({"views": ["su"], "objective": "su", "fusion": "loss", "forward": ["ftm"]}, "ftm", "su"),
    ],
)
def test_copies_with_one_common_loss_cannot_pass_one_by_one(keys, alone, joint):
    with pytest.raises(ValueError, match="common loss") as refused:
        Attack.model_validate({"step": "sign", "epsilon": 8, **keys})
    assert refused.value.errors()[0]["msg"] == (
        f"`{alone}` needs a pass for each copy of an image, but with `{joint}` all copies have one common loss and "
        f"pass together: remove `{alone}` or `{joint}`"
    )


def test_one_copy_with_a_loss_of_all_copies_passes_alone():
    keys = {"step": "sign", "epsilon": 8, "views": [{"dem": {"frames": [1.3]}}], "forward": ["ftm"]}
    assembly = Attack.model_validate(keys).assembly
    assert (assembly.alone, assembly.together, assembly.copies) == (True, True, 1)


OWN_MEAN = """
from typing import ClassVar

from study.attacks.kinds import View


class Mean(View):
    name: ClassVar[str] = "own-mean"
    averages: ClassVar[str] = "logits"

    @property
    def count(self):
        return 2

    def make(self, image, given):
        return image
"""


def test_what_does_not_fit_a_users_view_is_said_once_its_file_is_loaded(tmp_path):
    (tmp_path / "mean.py").write_text(OWN_MEAN)
    view = {"python": f"{tmp_path / 'mean.py'}:Mean"}
    recipes = {
        "`ftm` needs a pass for each copy of an image, but with `own-mean` all copies have one common loss and pass "
        "together: remove `ftm` or `own-mean`": {"forward": ["ftm"]},
        "a view that averages logits needs an objective that reads logits, not features": {"objective": "fia"},
    }
    for said, keys in recipes.items():
        attack = Attack.model_validate({"fusion": "loss", "epsilon": 8, "views": [view], **keys})
        assert list(attack.conflicts()) == []
        loaded, _ = own_code.sealed(attack.views[0], "attacks.x", allowed=True)
        assert list(attack.model_copy(update={"views": (loaded,)}).conflicts()) == [said]
