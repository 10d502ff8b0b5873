"""All losses of features: they conform, count their cost, and run on a CNN and a transformer of real classes."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch

from study.attacks import Attack
from study.attacks.components.aa import AA
from study.attacks.components.bfa import BFA
from study.attacks.components.fda import FDA
from study.attacks.components.feature_layers import channel_axis, layer_of, layers_in
from study.attacks.components.fft import FFT
from study.attacks.components.fia import FIA
from study.attacks.components.first_stage_start import FirstStageStart
from study.attacks.components.ila import ILA
from study.attacks.components.ila_plus import ILAPlus
from study.attacks.components.low_frequency import LowFrequency
from study.attacks.components.naa import NAA
from study.attacks.components.po_trip import PoTrip
from study.attacks.components.rpa import RPA
from study.attacks.components.tap import TAP
from study.attacks.conformance import check, counted
from study.attacks.loop import Engine, ImageBatch, craft
from study.attacks.presets import keys_of, preset
from study.errors import StudyError
from study.models import Model, loading, memory

COMPONENTS = [
    FIA(masks=2),
    NAA(points=2, gamma=2.0, variant="authors"),
    ILA(),
    ILAPlus(iterates=2),
    RPA(masks=2, sizes=(1, 3)),
    FDA(),
    TAP(),
    BFA(images=2),
    FFT(masks=1),
    FirstStageStart(),
    PoTrip(),
    AA(),
    LowFrequency(),
]
PRESETS = ["fia", "naa", "ila", "ila++", "rpa", "fda", "tap", "po-trip", "bfa", "fft"]
FEWER = {
    "fia": {"objective": {"fia": {"masks": 3}}},
    "naa": {"objective": {"naa": {"points": 3}}},
    "ila": {"first": {"preset": "bim", "steps": 2}},
    "ila++": {"objective": {"ila++": {"iterates": 2}}, "first": {"preset": "bim", "steps": 2, "checkpoints": [1]}},
    "rpa": {"objective": {"rpa": {"masks": 4}}},
    "bfa": {"objective": {"bfa": {"images": 2}}},
    "fft": {"objective": {"fft": {"masks": 2}}, "first": {"preset": "logit", "steps": 2}},
}
"""Fewer preparing gradients: the others cost what they cost in these tests too."""
LABELS = np.array([1, 20])
IDS = ["a", "b"]
ENGINE = Engine(batch=2)
CNN, VIT = ("timm:test_resnet", 32), ("timm:test_vit", 64)


@functools.cache
def network(reference, size):
    model = Model.model_validate({"network": reference, "weights": "random:1", "size": size})
    return loading.load(reference, model, fold=True)


@functools.cache
def hollow(reference):
    """A network without weights or memory."""
    return memory.build_meta(Model.model_validate({"network": reference, "weights": "random:0"})).eval()


def cost(attack, steps, sources):
    """What a whole batch costs: short batches are padded."""
    count = ENGINE.batch_size
    return {"gradients": count * attack.gradients(steps, sources), "forwards": count * attack.forwards(steps, sources)}


def images(size):
    return np.random.default_rng(2).integers(0, 256, (2, 3, size, size), dtype=np.uint8)


@pytest.mark.parametrize("component", COMPONENTS, ids=lambda one: f"{one.name}-{type(one).__name__}")
def test_conforms(component):
    findings = list(check(component, networks=["timm:test_resnet"], size=16))
    assert len(findings) == 7
    assert [(one.check, one.fault) for one in findings if one.fault] == []


@pytest.mark.parametrize(("reference", "size"), [CNN, VIT])
@pytest.mark.parametrize("name", PRESETS)
def test_presets_run_and_cost_what_they_say(name, reference, size):
    """Two steps on two images: the images move, within the budget, for the gradients and passes that are declared."""
    goal = "targeted" if name in ("po-trip", "fft") else "untargeted"
    attack = Attack.model_validate(keys_of(name, {"steps": 2} | FEWER.get(name, {})))
    model = network(reference, size)
    given = ImageBatch(images(size), LABELS, IDS, own=np.array([5, 6]) if goal == "targeted" else None)
    with counted([model]) as rows:
        made = craft([model], attack, goal, given, key=("preset",), engine=ENGINE, names=["m"])
    assert (made.rmsd > 0.5).all()
    assert made.linf.max() <= 16
    assert rows == cost(attack, 2, 1)


@pytest.mark.parametrize("name", PRESETS)
def test_presets_cost_what_their_papers_say(name):
    attack = Attack.model_validate(keys_of(name, {}))
    assert attack.gradients(attack.steps, 1) == preset(name).gradients


@pytest.mark.parametrize("name", ["naa", "ila", "fda"])
def test_each_source_of_an_ensemble_prepares(name):
    """Two networks with other layers, weights and clean features: everything costs twice as much."""
    attack = Attack.model_validate(keys_of(name, {"steps": 1} | FEWER.get(name, {})))
    models = [network(*CNN), network("timm:test_efficientnet", 32)]
    given = ImageBatch(images(32), LABELS, IDS)
    with counted(models) as rows:
        made = craft(models, attack, "untargeted", given, key=("e",), engine=ENGINE, names=["a", "b"])
    assert rows == cost(attack, 1, 2)
    assert (made.rmsd > 0.5).all()


@pytest.mark.parametrize(
    ("reference", "layer", "method", "name"),
    [
        ("timm:test_resnet", "middle", "fia", "layer2"),
        ("timm:test_resnet", "authors", "fia", "layer2"),
        ("timm:test_resnet", "stage 3", "fia", "layer3"),
        ("timm:test_resnet", "depth 0.75", "fft", "layer3"),
        ("timm:test_resnet", "layer1.0.conv1", "fia", "layer1.0.conv1"),
        ("timm:test_vit", "middle", "naa", "blocks.2"),
        ("timm:test_vit", "authors", "ila", "blocks.2"),
        ("torchvision:resnet18", "authors", "ila", "layer3"),
        ("torchvision:resnet18", "middle", "ila", "layer2"),
    ],
)
def test_layers_have_names(reference, layer, method, name):
    assert layer_of(hollow(reference), layer, method) == name


@pytest.mark.parametrize(
    ("reference", "method", "name", "middle"),
    [
        ("torchvision:resnet50", "fia", "layer2", "layer2"),
        ("torchvision:vgg16", "fia", "features.15", "features.15"),
        ("torchvision:inception_v3", "fia", "Mixed_5b", "Mixed_5d"),
        ("timm:inception_v4", "naa", "features.9", "features.9"),
        ("timm:inception_v4", "fia", "features.9", "features.9"),
    ],
)
def test_layers_of_the_authors(reference, method, name, middle):
    built = hollow(reference)
    assert layer_of(built, "authors", method) == name
    assert layer_of(built, "middle", method) == middle


def test_a_stage_that_does_not_exist_is_refused():
    with pytest.raises(StudyError, match="has no stage 9"):
        layer_of(hollow("timm:test_resnet"), "stage 9", "fia")


def test_sets_of_layers():
    resnet, vit = hollow("timm:test_resnet"), hollow("timm:test_vit")
    assert layers_in(resnet, "stages") == ("layer1", "layer2", "layer3", "layer4")
    assert layers_in(resnet, "blocks")[0] == "layer1.0"
    assert layers_in(vit, "blocks") == layers_in(vit, "stages")
    assert layers_in(resnet, ("stage 1", "layer2.0")) == ("layer1", "layer2.0")
    assert layers_in(hollow("torchvision:vgg11"), "blocks")[:3] == ("features.1", "features.4", "features.7")


def test_channels_are_found():
    for shape, axis in (((2, 8, 4, 4), 1), ((2, 4, 4, 8), 3), ((2, 4, 4, 4), 1), ((2, 5, 8), -1), ((2, 8), 1)):
        assert channel_axis(torch.zeros(shape)) == axis
