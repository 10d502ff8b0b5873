"""The components of this folder that sample, average and rescale gradients: they conform, and their presets run."""

from __future__ import annotations

import numpy as np
import pytest

from study.attacks import Attack
from study.attacks.components.adaptive_heavy_ball import AdaptiveHeavyBall
from study.attacks.components.calibration import CalibratedCrossEntropy
from study.attacks.components.depth_first import DepthFirstSampling
from study.attacks.components.direction_tuning import DirectionTuning
from study.attacks.components.integrated_gradients import IntegratedGradients
from study.attacks.components.label_probability import LabelProbability
from study.attacks.components.momentum import Momentum
from study.attacks.components.monotonic_paths import MonotonicPaths
from study.attacks.components.prediction_correction import PredictionCorrection
from study.attacks.components.rescaled import Rescaled
from study.attacks.components.staircase import StaircaseSign
from study.attacks.components.translations import Translations
from study.attacks.components.virtual_steps import VirtualSteps
from study.attacks.conformance import check, counted
from study.attacks.loop import Engine, ImageBatch, craft
from study.attacks.presets import keys_of, presets
from study.models import Model, loading

COMPONENTS = [
    Momentum(normalise="none"),
    CalibratedCrossEntropy(),
    CalibratedCrossEntropy(by="temperature"),
    LabelProbability(),
    Translations(side=2),
    DirectionTuning(inner=2),
    PredictionCorrection(predictions=2),
    DepthFirstSampling(samples=2),
    Rescaled(),
    StaircaseSign(),
    AdaptiveHeavyBall(),
    IntegratedGradients(samples=2, first=0, noise=1),
    MonotonicPaths(transforms=2),
    VirtualSteps(auxiliary=1),
]

PRESETS = {
    "logit": {}, "logit-margin": {}, "logit-temperature": {}, "anda": {"views": [{"translations": 2}]},
    "dta": {"points": [{"direction-tuning": {"inner": 3}}]}, "pc-i": {}, "pc-mi": {},
    "smi-fgrm": {"points": [{"depth-first-sampling": {"samples": 2}}]}, "va-i": {}, "i-fgs2m": {}, "adamsi": {},
    "mig": {"points": [{"integrated-gradients": 3}]},
    "taig": {"points": [{"integrated-gradients": {"samples": 3, "first": 0}}]},
    "taig-r": {"points": [{"integrated-gradients": {"samples": 3, "first": 0, "noise": 1}}]},
    "mumodig": {"points": [{"monotonic-paths": {"transforms": 3}}]},
}  # fmt: skip
"""The presets, made smaller."""


@pytest.mark.parametrize("component", COMPONENTS, ids=lambda one: f"{one.name}-{len(one.model_dump_json())}")
def test_components_conform(component):
    findings = list(check(component, size=16))
    assert [f"{one.check}: {one.fault}" for one in findings if one.fault] == []
    assert len(findings) >= 6


@pytest.fixture(scope="module", params=["timm:test_resnet", "timm:test_vit"])
def network(request):
    model = Model.model_validate({"network": request.param, "weights": "random:1", "size": 32})
    return loading.load("m", model, fold=True)


@pytest.mark.parametrize("name", PRESETS)
def test_presets_run_on_a_cnn_and_a_transformer(network, name):
    """Two steps: images move, within the budget, at the cost that the preset says."""
    clean = np.random.default_rng(1).integers(0, 256, (4, 3, 32, 32), dtype=np.uint8)
    attack = Attack.model_validate(keys_of(name, {"steps": 2, **PRESETS[name]}))
    given = ImageBatch(clean, np.array([1, 20, 300, 999]), [f"image{index}" for index in range(4)])
    with counted([network]) as rows:
        made = craft([network], attack, "targeted", given, key=("presets",), engine=Engine(batch=4))
    assert rows["gradients"] == 4 * attack.gradients(2, 1)
    assert rows["forwards"] == 4 * attack.forwards(2, 1)
    assert made.linf.min() > 0
    assert made.linf.max() <= attack.budget.levels[0]


@pytest.mark.parametrize("name", PRESETS)
def test_presets_cost_what_they_say(name):
    attack = Attack.model_validate(keys_of(name, {}))
    assert attack.gradients(attack.steps, 1) == presets()[name].gradients
