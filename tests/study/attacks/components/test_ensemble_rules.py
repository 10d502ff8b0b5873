"""What every ensemble rule of the literature does: it conforms, counts its passes, and its preset runs."""

from __future__ import annotations

import numpy as np
import pytest

from study.attacks import Attack, presets
from study.attacks.components.adaea import AdaptiveEnsemble
from study.attacks.components.cwa import CommonWeakness
from study.attacks.components.smer import Reweighted
from study.attacks.components.svre import VarianceReduced
from study.attacks.conformance import check, counted
from study.attacks.loop import Engine, ImageBatch, perturbations
from study.models import Model, loading

RULES = {
    "svre": VarianceReduced(inner=1),
    "cwa": CommonWeakness(),
    "adaea": AdaptiveEnsemble(),
    "smer": Reweighted(rounds=1),
}
SLOW = {
    "svre of the authors": VarianceReduced(variant="authors"),
    "cwa of the authors": CommonWeakness(variant="authors"),
    "adaea of the authors": AdaptiveEnsemble(variant="authors"),
    "smer in rounds": Reweighted(rounds=2),
}
NETWORKS = ("timm:test_resnet", "timm:test_resnet")
NAMES = ("svre", "cwa", "adaea", "smer")
IDS = ["a", "b", "c", "d"]
LABELS = np.array([3, 500, 999, 7])


@pytest.mark.parametrize("name", [*RULES, *(pytest.param(one, marks=pytest.mark.slow) for one in SLOW)])
def test_each_conforms(name):
    faults = [f"{one.check}: {one.fault}" for one in check((RULES | SLOW)[name], NETWORKS, size=32) if one.fault]
    assert not faults


@pytest.fixture(scope="module")
def models():
    given = {"cnn": ("timm:test_resnet", 0, 48), "vit": ("timm:test_vit", 1, 160)}
    return {
        name: loading.load(
            name, Model.model_validate({"network": network, "weights": f"random:{seed}", "size": size}), fold=True
        )
        for name, (network, seed, size) in given.items()
    }


@pytest.mark.parametrize(
    "sources", [("cnn",), pytest.param(("cnn", "vit"), marks=pytest.mark.slow)], ids=["one", "two"]
)
@pytest.mark.parametrize("name", NAMES)
def test_each_preset_runs_and_costs_what_it_says(models, name, sources):
    """Two steps on a convolutional network, alone and with a transformer: gradients and forwards as declared."""
    attack = Attack.model_validate(presets.keys_of(name, {"steps": 2}))
    clean = np.random.default_rng(1).integers(0, 256, (4, 3, 48, 48), dtype=np.uint8)
    used = [models[one] for one in sources]
    with counted(used) as rows:
        ((_, deltas, _),) = perturbations(
            used,
            attack,
            "untargeted",
            ImageBatch(clean, LABELS, IDS),
            key=("preset",),
            engine=Engine(batch=4),
            names=sources,
        )
    assert rows["gradients"] == 4 * attack.gradients(2, len(sources))
    assert rows["forwards"] == 4 * attack.forwards(2, len(sources))
    moved = deltas[-1].abs()
    assert 0 < moved.max() <= 2 * (attack.step_size or 16 / 2) + 1e-3
    # AdaEA leaves out the pixels at which the two models disagree.
    assert (moved > 0).float().mean() > (0.3 if name == "adaea" else 0.8)
