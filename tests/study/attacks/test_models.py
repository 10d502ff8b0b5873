"""What an attack does with its models: skip gradients that leave no trace, gammas, precision and compilation."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from study.attacks import Attack
from study.attacks.loop import Engine, ImageBatch, craft
from study.attacks.presets import keys_of
from study.errors import StudyError
from study.models import Model, loading

LABELS = np.array([1, 2, 3])
IDS = ["a", "b", "c"]
KEY = ("models",)


@pytest.fixture(scope="module")
def clean():
    return np.random.default_rng(2).integers(0, 256, (3, 3, 48, 48), dtype=np.uint8)


def load(network, seed=1, **more):
    return loading.load(
        "m", Model.model_validate({"network": network, "weights": f"random:{seed}", "size": 48}), **more
    )


def run(models, keys, clean, engine=None, names=()):
    given = ImageBatch(clean, LABELS, IDS)
    attack = Attack.model_validate(keys)
    return craft(models, attack, "untargeted", given, key=KEY, engine=engine or Engine(batch=4), names=names).pixels


@pytest.mark.parametrize("fold", [False, True])
def test_a_craft_with_skip_gradients_leaves_no_trace(clean, fold):
    """Before, with and after: the plain attack is bit for bit what it was, the state too, and no hook is left."""
    model = load("torchvision:resnet18", fold=fold)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    before = run([model], keys_of("igsm", {"steps": 2}), clean)
    skipped = run([model], keys_of("sgm", {"steps": 2}), clean)
    assert (skipped != before).mean() > 0.05
    assert np.array_equal(run([model], keys_of("igsm", {"steps": 2}), clean), before)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert not any(one._forward_hooks or one._backward_hooks for one in model.modules())
    one = run([model], keys_of("sgm", {"steps": 2, "skip_gradient": {"gamma": 1}}), clean)
    assert np.array_equal(one, before)


def test_gammas_by_model_and_by_kind(clean):
    """In an ensemble every model has its own: by name, else by what its branches are."""
    # Not timm's small ResNet: its branches begin as zeros.
    residual, dense = load("torchvision:resnet18"), load("torchvision:densenet121", 2)

    def crafted(skip):
        keys = keys_of("sgm", {"steps": 1, "fusion": "loss", "skip_gradient": skip})
        return run([residual, dense], keys, clean, names=("r", "d"))

    both = crafted({"gamma": 0.2, "dense": 0.5})
    assert np.array_equal(both, crafted({"gamma": 0.9, "models": {"r": 0.2, "d": 0.5}}))
    assert not np.array_equal(both, crafted({"gamma": 0.2, "dense": 0.9}))
    assert not np.array_equal(both, crafted({"gamma": 0.9, "dense": 0.5}))


def test_models_without_branches(clean):
    """In company they are left as they are; alone they are an error."""
    plain, residual = load("torchvision:squeezenet1_1"), load("timm:test_resnet")
    keys = keys_of("sgm", {"steps": 1})
    assert run([plain, residual], keys, clean).shape == clean.shape
    with pytest.raises(StudyError, match="none are known in vgg"):
        run([plain], keys, clean, names=("vgg",))


def test_bfloat16_is_asked_for(clean):
    """Other signs in some pixels, the same budget, and a gradient that is float32 again."""
    model = load("timm:test_resnet")
    whole = run([model], keys_of("fgsm", {}), clean)
    half = run([model], keys_of("fgsm", {}), clean, Engine(batch=4, precision="bfloat16"))
    assert 0 < (whole != half).mean() < 0.5
    assert np.abs(half.astype(int) - clean).max() == 16


@pytest.mark.slow
def test_compiled_models_climb_the_same_way(clean):
    """torch.compile on a CPU: nearly all signs agree; with skip gradients, it steps aside for their hooks."""
    model, compiled = load("timm:test_resnet", fold=True), load("timm:test_resnet", fold=True)
    compiled.compile_with(True)
    plain = run([model], keys_of("fgsm", {}), clean)
    assert (run([compiled], keys_of("fgsm", {}), clean) != plain).mean() < 0.02
    skipped = run([model], keys_of("sgm", {"steps": 2}), clean)
    assert np.array_equal(run([compiled], keys_of("sgm", {"steps": 2}), clean), skipped)
