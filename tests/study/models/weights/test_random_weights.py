"""Random weights: the same on every processor, and spread as the network's own initialiser spreads them."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import timm
import torch
from torch import nn

from study.models.weights.random_weights import ReproducibleDraws
from tests.conftest import ROOT

NETWORKS = {"timm:test_resnet": 32, "timm:test_vit": 160, "timm:test_convnext": 64, "torchvision:squeezenet1_1": 32}
"""Networks and the sizes of their images: a loader tries them, and plain code is slow."""
DIGESTS = """
from study.models import Model, loading
found = [
    loading.load("m", Model.model_validate({"network": one, "weights": "random:3", "size": size})).digest
    for one, size in networks.items()
]
"""


def digests():
    names: dict = {"networks": NETWORKS}
    exec(DIGESTS, names)
    return names["found"]


def elsewhere(**environment):
    """What a process with these variables finds."""
    done = subprocess.run(
        [sys.executable, "-c", f"networks = {NETWORKS}\n{DIGESTS}\nprint(*found)"],
        env=os.environ | environment, cwd=ROOT, capture_output=True, text=True, check=True, timeout=120,
    )  # fmt: skip
    return done.stdout.split()


def test_no_instruction_set_changes_a_weight():
    """Plain code in place of vectorised code, and other kernels of the libraries beneath."""
    plain = elsewhere(ATEN_CPU_CAPABILITY="default", MKL_CBWR="COMPATIBLE", ONEDNN_MAX_CPU_ISA="SSE41")
    assert len(plain) == 4
    assert plain == digests()


def built(seed, make):
    with ReproducibleDraws(seed):
        return make()


@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "test_efficientnet"])
def test_weights_are_spread_as_pytorch_spreads_them(name):
    ours = built(0, lambda: timm.create_model(name)).state_dict()
    torch.manual_seed(0)
    theirs = timm.create_model(name).state_dict()
    assert ours.keys() == theirs.keys()
    tried = 0
    for key, tensor in ours.items():
        if tensor.numel() > 2000 and theirs[key].std() > 0:
            tried += 1
            assert not torch.equal(tensor, theirs[key])
            assert tensor.mean().abs() < 5 * theirs[key].std() / tensor.numel() ** 0.5
            assert float(tensor.std()) == pytest.approx(float(theirs[key].std()), rel=0.08)
        elif len(theirs[key].unique()) == 1:
            assert torch.equal(tensor, theirs[key])
    assert tried > 3


def test_distributions():
    torch.manual_seed(5)
    state = torch.get_rng_state()
    with ReproducibleDraws(1):
        uniform = nn.init.uniform_(torch.empty(300_000), -2, 3)
        normal = torch.empty(300_000).normal_(1, std=0.5)
        truncated = nn.init.trunc_normal_(torch.empty(300_000), std=0.02)
        made = torch.randn(300_000)
        also = torch.rand(2, 150_000)
    assert torch.equal(torch.get_rng_state(), state)
    assert uniform.min() >= -2
    assert uniform.max() <= 3
    assert float(uniform.mean()) == pytest.approx(0.5, abs=0.02)
    assert float(uniform.var()) == pytest.approx(25 / 12, rel=0.01)
    assert float(normal.mean()) == pytest.approx(1, abs=0.005)
    assert float(normal.std()) == pytest.approx(0.5, rel=0.01)
    assert truncated.abs().max() <= 2
    assert float(truncated.std()) == pytest.approx(0.02, rel=0.01)
    assert float(made.std()) == pytest.approx(1, rel=0.01)
    assert float(also.mean()) == pytest.approx(0.5, abs=0.005)
    tight = built(1, lambda: nn.init.trunc_normal_(torch.empty(300_000), std=1.0))
    assert tight.abs().max() <= 2
    assert float(tight.std()) == pytest.approx(0.8796, rel=0.005)


def test_the_inverse_error_function():
    points = torch.linspace(-0.99, 0.99, 1001, dtype=torch.float64)
    with ReproducibleDraws(0):
        ours = torch.erfinv(points)
    assert torch.allclose(ours, torch.erfinv(points), atol=1e-4)


def test_a_draw_is_its_seed_and_its_number():
    def weights(seed):
        network = built(seed, lambda: nn.Sequential(nn.Linear(30, 30), nn.Linear(30, 30)))
        return [layer.weight for layer in network]

    first, second = weights(1)
    assert torch.equal(first, weights(1)[0])
    assert not torch.equal(first, second)
    assert not torch.equal(first, weights(2)[0])
