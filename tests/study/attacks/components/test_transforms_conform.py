"""Warps, movements, and sampled and learnt operations: each conforms, and each preset runs on two kinds of network."""

from __future__ import annotations

import numpy as np
import pytest

from study.attacks import Attack
from study.attacks.components.decowa import ConstrainedWarp
from study.attacks.components.dropped_patches import DroppedPatches
from study.attacks.components.l2t import LearnedTransforms
from study.attacks.components.ops import OperationSampling
from study.attacks.components.random_shift import RandomShift
from study.attacks.components.s4st import BlockScaling
from study.attacks.components.uniform_noise import UniformNoise
from study.attacks.conformance import check
from study.attacks.kinds import Pool
from study.attacks.loop import Engine, ImageBatch, craft
from study.attacks.presets import keys_of, preset
from study.models import Model, loading

COMPONENTS = {
    "decowa": ConstrainedWarp(copies=1, mesh=4),
    "dropped-patches": DroppedPatches(),
    "uniform-noise": UniformNoise(),
    "random-shift": RandomShift(),
    "ops": OperationSampling(samples=1, operators=2),
    "ops-authors": OperationSampling(samples=1, operators=1, variant="authors"),
    "l2t": LearnedTransforms(samples=2),
    "s4st": BlockScaling(),
}


@pytest.mark.parametrize("name", COMPONENTS)
def test_components_conform(name):
    found = list(check(COMPONENTS[name], size=32))
    assert [one for one in found if one.fault] == []
    assert len(found) == 7


PRESETS = {
    "decowa": {"views": [{"decowa": {"copies": 1}}]},
    "ta-bench": {},
    "ops": {"views": [{"ops": {"samples": 1, "operators": 2}}]},
    "l2t": {"points": [{"l2t": {"samples": 2}}]},
    "s4st": {},
}
"""With fewer copies: how many they are changes nothing here."""


@pytest.fixture(scope="module", params=["timm:test_resnet", "timm:test_vit"])
def network(request):
    size = 64 if request.param == "timm:test_vit" else 32
    model = Model.model_validate({"network": request.param, "weights": "random:1", "size": size})
    return loading.load(request.param, model, fold=True), size


@pytest.mark.parametrize("name", PRESETS)
def test_presets_move_images_within_their_budget(network, name):
    model, size = network
    attack = Attack.model_validate(keys_of(name, {"steps": 2} | PRESETS[name]))
    clean = np.random.default_rng(0).integers(0, 256, (4, 3, size, size), dtype=np.uint8)
    given = ImageBatch(clean, np.array([1, 2, 3, 4]), ["a", "b", "c", "d"])
    pool = Pool(clean[::-1].copy(), given.labels)
    made = craft([model], attack, "untargeted", given, key=("test",), engine=Engine(batch=4), pool=pool)
    assert (made.linf <= attack.budget.epsilon).all()
    assert (made.rmsd > 0.3).all()


@pytest.mark.parametrize("name", PRESETS)
def test_the_cost_of_a_preset_is_what_its_parts_take(name):
    keys = preset(name).keys
    attack = Attack.model_validate(keys)
    assert attack.gradients(attack.steps, 1) == preset(name).gradients
