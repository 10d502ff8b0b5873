"""The rules for places and steps of 2020 to 2024: conformance, cost, and their presets on a CNN and a transformer."""

from __future__ import annotations

import numpy as np
import pytest

from study.attacks import Attack
from study.attacks.components.emi import EnhancedMomentum
from study.attacks.components.gi import GlobalMomentum
from study.attacks.components.gnp import GradientNormPenalty
from study.attacks.components.gra import DecayIndicator, GradientRelevance
from study.attacks.components.ie import EulersMethod
from study.attacks.components.mef import MaximinFlatness
from study.attacks.components.patch_wise import PatchWise
from study.attacks.components.pgn import PenalisedGradientNorm
from study.attacks.components.pre_gradient import PreGradient
from study.attacks.components.rap import ReversePerturbation
from study.attacks.conformance import check, counted
from study.attacks.loop import Engine, ImageBatch, craft
from study.attacks.presets import keys_of, presets
from study.models import Model, loading
from tests.study.attacks.components.point_oracles import Pixels, ours

COMPONENTS = [
    PreGradient(),
    EnhancedMomentum(samples=2),
    PenalisedGradientNorm(samples=1, variant="authors"),
    GradientRelevance(samples=1),
    DecayIndicator(),
    EulersMethod(),
    GradientNormPenalty(),
    GlobalMomentum(warmup=1),
    PatchWise(),
    ReversePerturbation(inner_steps=1, begin=1),
    MaximinFlatness(samples=1),
]
PRESETS = ["pi", "emi", "pgn", "gra", "ie", "gnp", "gi", "patch-wise", "rap", "mef"]
SAMPLED = ["emi", "pgn", "gra", "mef"]


@pytest.mark.parametrize("component", COMPONENTS, ids=lambda one: one.name)
def test_components_conform(component):
    found = list(check(component, size=32))
    assert [one for one in found if one.fault] == []
    assert sum(not one.skipped for one in found) >= 5


@pytest.fixture(scope="module")
def networks():
    def network(reference):
        model = Model.model_validate({"network": reference, "weights": "random:1", "size": 32})
        return loading.load(reference, model, fold=True)

    return {"cnn": network("timm:test_resnet"), "transformer": network("timm:test_vit")}


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("kind", ["cnn", "transformer"])
def test_presets_run_at_their_cost(networks, name, kind):
    """Two steps. Rules with many neighbours have two of them here, to take less time."""
    model = networks[kind]
    keys = keys_of(name, {"steps": 2})
    if name in SAMPLED:
        ((rule, parameters),) = Attack.model_validate(keys).plain()["points"].items()
        keys["points"] = [{rule: parameters | {"samples": 2}}]
    attack = Attack.model_validate(keys)
    clean = np.random.default_rng(1).integers(0, 256, (4, 3, 32, 32), dtype=np.uint8)
    given = ImageBatch(clean, np.array([1, 2, 3, 4]), ["a", "b", "c", "d"])
    with counted([model]) as rows:
        made = craft([model], attack, "untargeted", given, key=("presets",), engine=Engine(batch=4))
    assert rows == {"gradients": 4 * attack.gradients(2, 1), "forwards": 0}
    assert made.linf.max() <= 16
    assert (made.rmsd > 1).all()


@pytest.mark.parametrize("name", PRESETS)
def test_presets_say_their_cost(name):
    preset = presets()[name]
    attack = Attack.model_validate(keys_of(name, {}))
    assert attack.gradients(attack.steps, 1) == preset.gradients
    assert len(preset.formula.splitlines()) == 2
    assert preset.formula.isascii()
    assert preset.oracle


@pytest.mark.parametrize(
    ("points", "said"),
    [
        (["pgn", "pre_gradient"], "put it last in `points`, after pre_gradient"),
        (["emi", "rap"], "put it last in `points`, after rap"),
        (["mef", "gra"], "put it last in `points`, after gra"),
    ],
)
def test_a_rule_that_would_never_be_asked_is_refused(points, said):
    with pytest.raises(ValueError, match=said):
        Attack.model_validate(keys_of("mi", {"points": points}))
    Attack.model_validate(keys_of("mi", {"points": points[::-1]}))


@pytest.mark.parametrize("rule", ["pgn", "gra", "mef"])
def test_rules_that_measure_in_epsilons_need_one(rule):
    with pytest.raises(ValueError, match=f"{rule} needs a budget with an epsilon"):
        Attack.model_validate({"step": "sign", "steps": 2, "step_size": 1, "points": [rule]})


@pytest.mark.parametrize(
    ("name", "keys", "other"),
    [
        (
            "pgn",
            {"points": [{"pgn": {"variant": "paper", "samples": 2}}]},
            {"points": [{"pgn": {"variant": "authors", "samples": 2}}]},
        ),
        ("mef", {"points": [{"mef": {"samples": 2}}]}, {"points": [{"mef": {"variant": "authors", "samples": 2}}]}),
        ("gnp", {}, {"points": [{"gnp": {"variant": "transferattack"}}]}),
        ("gi", {}, {"step": {"gi": {"variant": "authors"}}, "step_size": 1.6}),
    ],
)
def test_variants_differ(small_model, small_images, name, keys, other):
    """What their own tests compare with two formulas is not one and the same."""
    model = Pixels(small_model)
    first, second = (ours(model, keys_of(name, {"steps": 8} | one), small_images) for one in (keys, other))
    assert 0.001 < (first != second).double().mean() < 0.9
