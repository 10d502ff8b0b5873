"""Networks in bfloat16: cast once, the bits of autocast, and float32 at both ends."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from study.attacks import Attack
from study.attacks.loop import Engine, ImageBatch, craft
from study.attacks.presets import keys_of
from study.models import Model, loading
from study.models.predict import predict
from study.reproducibility import numerics

CLEAN = np.random.default_rng(0).integers(0, 256, (2, 3, 48, 48), dtype=np.uint8)
NETWORKS = ("timm:test_resnet", "timm:test_vit", "timm:test_efficientnet", "torchvision:resnet18")


def load(network):
    # The seven-pixel stem of a ResNet has a backward pass of our own.
    return loading.load("m", Model.model_validate({"network": network, "weights": "random:1", "size": 48}), fold=True)


def both(model):
    pixels = torch.from_numpy(CLEAN).float().contiguous(memory_format=torch.channels_last).requires_grad_(True)
    with numerics.network_pass("bfloat16", "cpu"):
        with numerics.autocast("bfloat16", "cpu"):
            logits = model(pixels)
        (gradient,) = torch.autograd.grad(logits.float().logsumexp(1).sum(), pixels)
    return logits, gradient


@pytest.mark.parametrize("network", NETWORKS)
def test_a_copy_that_is_cast_once_has_the_bits_of_autocast(network):
    model = load(network)
    before = {name: one.clone() for name, one in model.state_dict().items()}
    copy = model.in_precision("bfloat16")
    assert model.in_precision("bfloat16") is copy is copy.in_precision("bfloat16")
    assert model.in_precision("tf32") is model
    for one, other in zip(both(model), both(copy), strict=True):
        assert torch.equal(one, other)
    assert all(torch.equal(one, before[name]) for name, one in model.state_dict().items())
    sizes = {True: 0, False: 0}
    for one in copy.network.parameters():
        sizes[one.dtype == torch.bfloat16] += one.numel()
    assert sizes[True] > 9 * sizes[False]


def test_tensors_that_are_not_cast_are_shared():
    model = load("timm:test_vit")
    copy = model.in_precision("bfloat16")
    whole = {one.data_ptr() for one in model.network.parameters()}
    assert all((one.data_ptr() in whole) == (one.dtype == torch.float32) for one in copy.network.parameters())


def test_no_pass_of_an_attack_casts_a_weight():
    """Of the original every pass would; the loss and its gradient are float32."""
    model = load("timm:test_resnet")
    copy = model.in_precision("bfloat16")
    seen = []
    convolutions = [one for one in copy.network.modules() if isinstance(one, torch.nn.Conv2d)]
    for one in convolutions:
        one.register_forward_hook(lambda module, _, output: seen.append((module.weight.dtype, output.dtype)))
    craft_it([model], "mi")
    assert set(seen) == {(torch.bfloat16, torch.bfloat16)}
    assert len(seen) == 2 * len(convolutions)


def craft_it(models, attack, **changed):
    recipe = Attack.model_validate(keys_of(attack, {"steps": 2, **changed}))
    given = ImageBatch(CLEAN, np.array([1, 2]), ["a", "b"])
    return craft(models, recipe, "untargeted", given, key=("k",), engine=Engine(4, precision="bfloat16")).pixels


def test_features_are_read_from_the_copy():
    """FIA reads features before its first step, and in every step; its weights must be those of the same network."""
    model = load("timm:test_resnet")
    copy, seen = model.in_precision("bfloat16"), []
    model.network.layer2.register_forward_hook(lambda *_: seen.append("original"))
    made = craft_it([model], "fia", steps=1)
    assert not seen
    assert copy is model.in_precision("bfloat16")
    assert 0 < np.abs(made.astype(int) - CLEAN).max() <= 16


def test_targets_have_a_precision_of_their_own():
    model = load("timm:test_resnet")
    strict = predict(model, CLEAN, batch=4)
    craft_it([model], "mi")
    again = predict(model, CLEAN, batch=4)
    assert np.array_equal(strict.top5_prob, again.top5_prob)
    rough = predict(model, CLEAN, batch=4, precision="bfloat16", whole=True)
    assert rough.whole.dtype == np.float32
    # A softmax in bfloat16 would sum to 1 only within some hundredths.
    assert np.abs(rough.whole.sum(1) - 1).max() < 1e-5
    assert 0 < np.abs(rough.top5_prob - strict.top5_prob).max() < 0.05
