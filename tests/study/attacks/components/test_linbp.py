"""Linear backpropagation against a ResNet whose branches are run back twice by hand, and a VGG."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torchvision
from torch.nn import functional

from study.attacks.presets import keys_of
from study.errors import StudyError
from study.models.layers.middle import middle_layer
from tests.study.attacks.components import small_sources as small

KEYS = {"steps": 3, "step_size": 4}


def linear(x):
    """ReLU with the gradient of the identity."""
    return x + (x.relu() - x).detach()


def branch(block, x, relu):
    f = relu(block.bn1(block.conv1(x)))
    return block.bn3(block.conv3(relu(block.bn2(block.conv2(f)))))


def by_hand(network, pixels, start):
    """Guo et al. 2020, equation 5: block by block from the end, with the gradients of the branch and of the skip
    apart."""
    labels = torch.from_numpy(small.LABELS)
    x = network.maxpool(network.relu(network.bn1(network.conv1(small.normalised(pixels)))))
    blocks = [(f"{name}.{at}", one) for name in ("layer1", "layer2", "layer3", "layer4")
              for at, one in enumerate(getattr(network, name))]  # fmt: skip
    names = [name for name, _ in blocks]
    inputs = []
    for _, block in blocks:
        inputs.append(x)
        skip = x if block.downsample is None else block.downsample(x)
        x = (skip + branch(block, x, functional.relu)).relu()
    loss = functional.cross_entropy(network.fc(x.mean((2, 3))), labels, reduction="sum")
    (after,) = torch.autograd.grad(loss, x, retain_graph=True)
    for name, block in reversed(blocks):
        if names.index(name) <= names.index(start):
            break
        given = inputs[names.index(name)].detach().requires_grad_()
        skip = given if block.downsample is None else block.downsample(given)
        true, flat = branch(block, given, functional.relu), branch(block, given, linear)
        inside = after * ((skip + true) > 0)
        (wanted,) = torch.autograd.grad(true, given, inside, retain_graph=True)
        (found,) = torch.autograd.grad(flat, given, inside)
        scale = wanted.flatten(1).norm(dim=1) / found.flatten(1).norm(dim=1)
        (through,) = torch.autograd.grad(skip, given, inside)
        after = through + scale.view(-1, 1, 1, 1) * found
        x = inputs[names.index(name)]
    return torch.autograd.grad(x, pixels, after)[0]


@pytest.mark.parametrize("start", ["layer1.0", "layer3.0"])
def test_branches_are_linear_and_keep_their_norm(start):
    network, clean = small.resnet(), small.images(32)
    keys = keys_of("linbp", {**KEYS, "backward": [{"linbp": {"layer": start}}]})
    wanted = small.looped(lambda x, _: by_hand(network, x, start), clean, steps=3, size=4, decay=0)
    assert small.apart(small.ours(small.source(network, 32), keys, clean), wanted) < 1e-4
    plain = small.ours(small.source(network, 32), keys_of("igsm", {"steps": 3, "step_size": 4}), clean)
    assert (np.abs(plain - wanted) > 1).mean() > 0.01


def test_a_network_without_branches_is_linear_as_a_whole():
    network, clean = small.vgg(), small.images(16)
    keys = keys_of("linbp", {**KEYS, "backward": [{"linbp": {"layer": "features.3"}}]})

    def gradient(image, _):
        def forward(pixels):
            x = small.normalised(pixels)
            for place, layer in enumerate(network.features):
                x = linear(x) if place > 3 and isinstance(layer, torch.nn.ReLU) else layer(x)
            return network.classifier(x.mean((2, 3)))

        return small.gradient_of(forward, image)[0]

    wanted = small.looped(gradient, clean, steps=3, size=4, decay=0)
    assert small.apart(small.ours(small.source(network, 16), keys, clean), wanted) < 1e-4


def test_the_layer_is_the_authors_or_the_middle():
    with torch.device("meta"):
        papers = torchvision.models.resnet50()
    assert middle_layer(papers, "linbp") == middle_layer(papers, "bpa") == "layer3.0"
    assert middle_layer(papers, "ilpd") == "layer2.3"
    assert middle_layer(small.resnet(), "linbp") == "layer2"
    assert middle_layer(small.resnet(), "linbp", "layer1.0") == "layer1.0"


def test_a_network_without_relus_is_refused():
    clean = small.images(32)
    with pytest.raises(StudyError, match="does not start at its block's input"):
        small.ours(small.source(small.vit(32, 2), 32), keys_of("linbp", {"steps": 1}), clean)
