"""What holds for all changes of networks: the conformance test, and each preset on a CNN and on a transformer."""

from __future__ import annotations

import numpy as np
import pytest

from study.attacks import Attack
from study.attacks.components.att import PatchPacing, TokenTuning
from study.attacks.components.bpa import SmoothBackward
from study.attacks.components.cfm import CleanFeatureMixup
from study.attacks.components.ftm import FeatureTuningMixup
from study.attacks.components.ghost import Ghost
from study.attacks.components.ilpd import PerturbationDecay
from study.attacks.components.linbp import LinearBackpropagation
from study.attacks.components.patchout import PatchOut
from study.attacks.components.perturbation_norm import PerturbationNorm
from study.attacks.components.pna import PayNoAttention
from study.attacks.components.tgr import TokenGradients
from study.attacks.components.vdc import VirtualDense
from study.attacks.conformance import check
from study.attacks.kinds import Pool
from study.attacks.loop import Engine, ImageBatch, craft
from study.attacks.presets import keys_of, presets
from study.models import Model, loading

CNN, VIT = "timm:test_resnet", "timm:test_vit"
COMPONENTS = {
    "ghost": (Ghost(), CNN),
    "ghost, dropout": (Ghost(dropout=0.05), "torchvision:squeezenet1_1"),
    "linbp": (LinearBackpropagation(), CNN),
    "bpa": (SmoothBackward(), CNN),
    "tgr": (TokenGradients(), VIT),
    "pna": (PayNoAttention(), VIT),
    "patchout": (PatchOut(), CNN),
    "perturbation-norm": (PerturbationNorm(), CNN),
    "ilpd": (PerturbationDecay(), CNN),
    "cfm": (CleanFeatureMixup(probability=0.4, pool=4), CNN),
    "ftm": (FeatureTuningMixup(probability=0.4, pool=4), CNN),
    "vdc": (VirtualDense(), VIT),
    "att": (TokenTuning(), VIT),
    "att-patches": (PatchPacing(), VIT),
}


SLOW = {"ghost, dropout", "cfm"}
"""Their code is that of others here, or runs in their own tests."""


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name for name in COMPONENTS]
)
def test_each_component_conforms(name):
    component, network = COMPONENTS[name]
    found = list(check(component, [network], 32))
    assert len(found) == 7
    assert not [one for one in found if one.fault]


PRESETS = {
    "ghost": (CNN, VIT), "linbp": (CNN,), "bpa": (CNN,), "tgr": (VIT,), "pna-patchout": (VIT,), "ilpd": (CNN, VIT),
    "cfm": (CNN, VIT), "ftm": (CNN, VIT), "vdc": (VIT,), "att": (VIT,),
}  # fmt: skip


@pytest.mark.parametrize(("name", "network"), [(name, one) for name, every in PRESETS.items() for one in every])
def test_each_preset_runs_two_steps(name, network):
    model = Model.model_validate({"network": network, "weights": "random:1", "size": 32})
    source = loading.load("m", model, fold=True)
    clean = np.random.default_rng(0).integers(0, 256, (2, 3, 32, 32), dtype=np.uint8)
    attack = Attack.model_validate(keys_of(name, {"steps": 2}))
    given = ImageBatch(clean, np.array([3, 4]), ["a", "b"])
    pool = Pool(clean, np.array([3, 4]))
    made = craft([source], attack, "targeted", given, key=("run",), engine=Engine(batch=2), pool=pool)
    assert 0 < made.linf.min() <= made.linf.max() <= attack.budget.epsilon
    assert presets()[name].gradients == Attack.model_validate(keys_of(name, {})).gradients(
        Attack.model_validate(keys_of(name, {})).steps, 1
    )
