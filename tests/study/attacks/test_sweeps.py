"""One gradient, many budgets; one run, many step counts; one ray, the minimal RMSD."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from study.attacks import Attack
from study.attacks.budget import distances
from study.attacks.loop import Engine, ImageBatch, craft, step_directions
from study.attacks.minimal_norm import minimal_rmsd
from study.attacks.presets import keys_of
from study.attacks.recipe import Search
from study.attacks.rounding import PerturbationRay
from study.models import Model, loading
from study.models.predict import predict
from study.reproducibility.rng import draws

LABELS = np.array([1, 2, 3, 4, 5, 6])
IDS = [f"image{index}" for index in range(6)]


class Counted(torch.nn.Module):
    """Counts the passes of a network."""

    def __init__(self, network):
        super().__init__()
        self.network, self.passes = network, 0

    def forward(self, x):
        self.passes += 1
        return 40 * self.network(x / 255 - 0.5)


def run(model, keys, clean, **engine):
    given = ImageBatch(clean, LABELS, IDS)
    return craft(
        [model], Attack.model_validate(keys), "untargeted", given, key=("k",), engine=Engine(**{"batch": 6} | engine)
    )


@pytest.mark.parametrize(
    ("preset", "budgets"),
    [
        ("fgsm", [{"epsilon": 2}, {"epsilon": 7.5}, {"epsilon": 30}]),
        ("fg", [{"rmsd": 1}, {"rmsd": 12.3}, {"rmsd": 40}]),
        ("fgs", [{"rmsd": 1}, {"rmsd": 12.3}, {"rmsd": 40}]),
        ("fg", [{"l2": 30.0}, {"l2": 300.0}]),
        ("gaussian-noise", [{"rmsd": 5}, {"rmsd": 40}]),
    ],
)
def test_a_sweep_of_budgets_takes_one_gradient(small_model, small_images, preset, budgets):
    ((kind, _),) = budgets[0].items()
    swept = Counted(small_model)
    together = run(swept, keys_of(preset, {"budget": {kind: [one[kind] for one in budgets]}}), small_images)
    assert swept.passes == (0 if preset == "gaussian-noise" else 1)
    for index, budget in enumerate(budgets):
        alone = run(Counted(small_model), keys_of(preset, {"budget": budget}), small_images)
        assert np.array_equal(together.pixels[index * 6 : index * 6 + 6], alone.pixels)
        assert np.array_equal(together.rmsd[index * 6 : index * 6 + 6], alone.rmsd)
        if kind == "rmsd":
            assert alone.rmsd == pytest.approx(budget["rmsd"], abs=0.02)
        if kind == "l2":
            assert (alone.l2 <= budget["l2"]).all()


@pytest.mark.parametrize("preset", ["igsm", "mi", "vmi", "optimization", "sgm"])
def test_checkpoints_are_shorter_runs(small_images, preset):
    model = loading.load("m", Model.model_validate({"network": "timm:test_resnet", "weights": "random:1", "size": 48}))
    size = {} if preset in ("sgm", "optimization") else {"step_size": 1.6}
    one = run(model, keys_of(preset, {"steps": 4, "checkpoints": [1, 3]} | size), small_images)
    assert len(one.pixels) == 18
    for index, steps in enumerate((1, 3, 4)):
        alone = run(model, keys_of(preset, {"steps": steps} | size), small_images)
        assert np.array_equal(one.pixels[index * 6 : index * 6 + 6], alone.pixels)


def test_points_and_gradients():
    swept = Attack.model_validate(keys_of("fgsm", {"epsilon": [1, 2]}))
    assert swept.scored_points == [(1, 1), (1, 2)]
    stops = Attack.model_validate(keys_of("vmi", {"checkpoints": [5, 10]}))
    assert stops.scored_points == [(5, 16), (10, 16)]
    assert stops.gradients(1, 3) == 3
    assert stops.gradients(10, 3) == 3 * (10 + 9 * 20)
    assert Attack.model_validate(keys_of("sg-igsm", {})).gradients(5, 1) == 100
    ranged = Attack.model_validate(keys_of("fg", {"budget": {"rmsd": {"from": 0.1, "to": 0.5, "by": 0.1}}}))
    assert ranged.budget.levels == (0.1, 0.2, 0.3, 0.4, 0.5)


@pytest.mark.parametrize("goal", ["untargeted", "targeted"])
@pytest.mark.parametrize("preset", ["fg-minimal", "fgs-minimal"])
def test_the_minimal_rmsd_is_found_by_a_linear_search(preset, goal):
    """Against a naive loop that crafts every level on its own and asks for one image at a time."""
    model = loading.load("m", Model.model_validate({"network": "timm:test_resnet", "weights": "random:1", "size": 48}))
    clean = np.random.default_rng(5).integers(0, 256, (3, 3, 48, 48), dtype=np.uint8)
    labels = predict(model, clean, batch=3).top5[:, 0 if goal == "untargeted" else 1].astype(np.int64)
    attack = Attack.model_validate(keys_of(preset, {"budget": {"minimal": {"from": 0.5, "to": 6, "by": 0.5}}}))
    given, ids = ImageBatch(clean, labels, IDS[:3]), tuple(IDS[:3])
    engine = Engine(batch=3)
    direction = step_directions([model], attack, goal, given, key=("k",), engine=engine)
    search = Search(attack.budget.minimal.levels, goal, tuple(labels.tolist()), ids, ("k",))
    found = minimal_rmsd(
        lambda images, _: predict(model, images, batch=4),
        np.stack([clean.astype(np.float32), direction]),
        search,
        batch=4,
    )
    for index in range(3):
        ray = PerturbationRay(clean[index], direction[index], draws(clean[index].size, "k", ids[index], "rounding"))
        for level in np.arange(0.5, 6.01, 0.5):
            image = ray.at(level)
            said = predict(model, image[None], batch=4).top5[0, 0]
            if (said == labels[index]) == (goal == "targeted"):
                break
        assert found.levels[index] == pytest.approx(level)
        assert found.prediction.top5[index, 0] == said
        assert found.distances[index] == pytest.approx(distances(clean[index], image))


class Small(Counted):
    """A device with memory for a few images only."""

    def __init__(self, network, most):
        super().__init__(network)
        self.most = most

    def forward(self, x):
        if len(x) > self.most:
            raise torch.OutOfMemoryError("out of memory")
        return super().forward(x)


def test_passes_are_halved_when_memory_runs_out(small_model, small_images):
    keys = keys_of("sg-igsm", {"steps": 2, "smoothing": {"copies": 8}})
    network = small_model.double()
    whole = run(_Double(network, 1000), keys, small_images, max_pass_images=48)
    tight = run(_Double(network, 5), keys, small_images, max_pass_images=48)
    small_model.float()
    assert (whole.max_pass_images, tight.max_pass_images) == (48, 3)
    assert (whole.pixels != tight.pixels).mean() < 1e-3


class _Double(Small):
    def forward(self, x):
        return super().forward(x.double())


def test_memory_for_not_even_one_image_is_an_error(small_model, small_images):
    with pytest.raises(Exception, match="too little memory for the gradient of a single image"):
        run(Small(small_model, 0), keys_of("igsm", {}), small_images)


def test_copies_together_are_copies_one_by_one(small_model, small_images):
    network = _Double(small_model.double(), 1000)
    keys = keys_of("sg-mi", {"steps": 2, "smoothing": {"copies": 5}})
    alone, together = (run(network, keys, small_images, batch=8, max_pass_images=limit) for limit in (8, 24))
    small_model.float()
    assert (alone.pixels != together.pixels).mean() < 1e-3
    assert network.passes == 2 * 5 + 2 * 2
