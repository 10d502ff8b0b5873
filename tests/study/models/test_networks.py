"""Our own networks: their sizes by hand, their outputs by another way, and real weights on real images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.nn import functional

from study.models.classifier import Classifier
from study.models.networks import NETWORKS, PREPROCESSING, CifarBlock, FullyConnected
from study.models.weights import state_dict as weights

ACCURACIES = {"resnet20-12fca82f.th": 80.4, "resnet44-014dd654.th": 82.1, "resnet56-4bfd9763.th": 82.5}


def test_every_network_says_what_it_wants():
    assert set(NETWORKS) == set(PREPROCESSING)
    for name, preprocessing in PREPROCESSING.items():
        channels, side = len(preprocessing.mean), preprocessing.size
        assert (channels, side) == ((3, 32) if name.startswith("cifar") else (1, 28))
        assert len(preprocessing.std) == channels


@pytest.mark.parametrize("name", NETWORKS)
def test_classes(name):
    channels, side = len(PREPROCESSING[name].mean), PREPROCESSING[name].size
    network = NETWORKS[name](num_classes=7).eval()
    with torch.inference_mode():
        assert network(torch.randn(2, channels, side, side)).shape == (2, 7)


# He et al. 2016, table 6: 0.27, 0.46, 0.66, 0.85 and 1.7 million parameters.
@pytest.mark.parametrize(("layers", "millions"), [(20, 0.27), (32, 0.46), (44, 0.66), (56, 0.85), (110, 1.7)])
def test_resnets_have_the_papers_size(layers, millions):
    network = NETWORKS[f"cifar_resnet{layers}"]()
    found = sum(parameter.numel() for parameter in network.parameters()) / 1e6
    assert found == pytest.approx(millions, abs=0.05 if layers == 110 else 0.006)
    weighted = [module for module in network.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    assert len(weighted) == layers


@pytest.mark.parametrize("depth", [0, 2, 4, 8])
def test_fully_connected_networks_by_hand(depth):
    network = NETWORKS[f"mnist_fnn{depth}"]()
    linear = [module for module in network.modules() if isinstance(module, nn.Linear)]
    assert [layer.out_features for layer in linear] == [500] * depth + [10]
    images = torch.rand(5, 1, 28, 28)
    units = images.numpy().reshape(5, 784)
    with torch.no_grad():
        for layer in linear[:-1]:
            units = np.maximum(units @ layer.weight.numpy().T + layer.bias.numpy(), 0)
        expected = units @ linear[-1].weight.numpy().T + linear[-1].bias.numpy()
        np.testing.assert_allclose(network(images).numpy(), expected, rtol=1e-4, atol=1e-5)


def test_signals_keep_their_size_through_eight_layers():
    network = FullyConnected(8, generator=torch.Generator().manual_seed(0))
    units = torch.randn(200, 784, generator=torch.Generator().manual_seed(1))
    sizes = [units.square().mean()]
    with torch.no_grad():
        for layer in network.hidden:
            units = functional.relu(layer(units))
            sizes.append(units.square().mean())
    assert all(0.5 < size / sizes[0] < 2 for size in sizes)


def test_a_generator_decides_the_weights_and_leaves_torchs_own_alone():
    before = torch.random.get_rng_state()
    one, other = (FullyConnected(2, generator=torch.Generator().manual_seed(3)).state_dict() for _ in range(2))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize(("inputs", "outputs", "stride"), [(4, 4, 1), (4, 8, 2), (16, 32, 2)])
def test_the_shortcut_subsamples_and_fills_with_zeros(inputs, outputs, stride):
    block = CifarBlock(inputs, outputs, stride).eval()
    nn.init.zeros_(block.bn2.weight)
    images = torch.rand(2, inputs, 8, 8)
    expected = np.zeros((2, outputs, 8 // stride, 8 // stride), np.float32)
    first = (outputs - inputs) // 2
    for channel in range(inputs):
        for row in range(8 // stride):
            for column in range(8 // stride):
                expected[:, first + channel, row, column] = images[:, channel, row * stride, column * stride]
    with torch.no_grad():
        np.testing.assert_array_equal(block(images).numpy(), expected)


def jpegs(folder: Path) -> tuple[torch.Tensor, torch.Tensor]:
    images, labels = [], []
    for label, inner in enumerate(sorted(path for path in folder.iterdir() if path.is_dir())):
        for path in sorted(inner.glob("*.jpg")):
            images.append(np.asarray(Image.open(path).convert("RGB")).transpose(2, 0, 1))
            labels.append(label)
    return torch.from_numpy(np.stack(images)).float(), torch.tensor(labels)


QUICK, *SLOW = ACCURACIES


@pytest.mark.parametrize(
    ("file", "fold"),
    [
        (QUICK, False),
        (QUICK, True),
        *(pytest.param(file, False, marks=pytest.mark.slow) for file in SLOW),  # the same code, twice as slow
    ],
)
def test_published_weights_load_strictly_and_are_as_accurate_as_measured_elsewhere(shared, file, fold):
    name = f"cifar_{file.partition('-')[0]}"
    network = NETWORKS[name]()
    weights.load(network, weights.read(shared / "data/cifar10/weights" / file), called=name, origin=file)
    model = Classifier(network, PREPROCESSING[name], labels=10, identity=name)
    if fold:
        model.arrange(fold=True, layout="channels-last", device="cpu")
        assert model.folded == int(name.removeprefix("cifar_resnet")) - 1
    images, labels = jpegs(shared / "data/cifar10/test")
    with torch.inference_mode():
        said = torch.cat([model(part).argmax(1) for part in images.split(100)])
    assert 100 * (said == labels).float().mean().item() == pytest.approx(ACCURACIES[file], abs=0.5)
