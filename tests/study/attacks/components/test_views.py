"""What all views of this folder have in common: they conform, and their presets run."""

from __future__ import annotations

import numpy as np
import pytest

from study.attacks import Attack, conformance
from study.attacks.components.bsr import BlockShuffleRotation
from study.attacks.components.dem import DiversityEnsemble
from study.attacks.components.everywhere import Everywhere
from study.attacks.components.maskblock import MaskBlock
from study.attacks.components.sia import StructureInvariance
from study.attacks.components.ssa import SpectrumSimulation
from study.attacks.components.su import GlobalAndLocal, SimilarFeatures
from study.attacks.components.us_mm import UniformScaleMixMask
from study.attacks.loop import Engine, ImageBatch, craft
from study.attacks.presets import keys_of
from study.models import Model, loading
from tests.view_trials import IDS, KEY, LABELS, others, pixels

SMALL = [
    DiversityEnsemble(frames=(1.2, 1.5)),
    SpectrumSimulation(copies=2),
    StructureInvariance(copies=2),
    BlockShuffleRotation(copies=2),
    UniformScaleMixMask(scales=2, masks=1),
    MaskBlock(grid=2),
    Everywhere(grid=2, samples=2),
    GlobalAndLocal(),
    SimilarFeatures(),
]
FEWER = {
    "rdi": {},
    "dem": {},
    "ssa": {"views": [{"ssa": {"copies": 3}}]},
    "mi+ssa": {"views": [{"ssa": {"copies": 3}}]},
    "sia": {"views": [{"sia": {"copies": 3}}]},
    "bsr": {"views": [{"bsr": {"copies": 3}}]},
    "us-mm": {"views": [{"us-mm": {"masks": 1}}]},
    "maskblock": {"views": [{"maskblock": 2}]},
    "everywhere": {"views": [{"everywhere": {"samples": 3}}]},
    "su": {},
}
"""Fewer copies, where many would take long and show nothing more."""


@pytest.mark.parametrize("component", SMALL, ids=lambda one: f"{one.kind}-{one.name}")
def test_it_conforms(component):
    faults = [one for one in conformance.check(component, size=32) if one.fault]
    assert not faults


@pytest.fixture(scope="module", params=["timm:test_resnet", "timm:test_vit"])
def network(request):
    model = Model.model_validate({"network": request.param, "weights": "random:1", "size": 32})
    return loading.load(request.param, model)


@pytest.mark.parametrize("name", FEWER)
def test_its_preset_runs_on_a_cnn_and_a_transformer(network, name):
    images = pixels(32)
    attack = Attack.model_validate(keys_of(name, {"steps": 2, **FEWER[name]}))
    goal = "targeted" if name in ("everywhere", "su") else "untargeted"
    given = ImageBatch(images, LABELS, IDS)
    made = craft([network], attack, goal, given, key=KEY, engine=Engine(batch=4), pool=others(32))
    moved = np.abs(made.pixels.astype(int) - images)
    assert moved.max() <= 16
    assert moved.mean() > 1
