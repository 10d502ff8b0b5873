"""BPA against torchattack, and against autograd of SiLU and of a soft pooling."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torchattack.bpa
from torch.nn import functional

from study.attacks.presets import keys_of
from study.errors import StudyError
from tests.study.attacks.components import small_sources as small


def test_the_authors_variant_is_torchattacks():
    network, clean = small.resnet(), small.images(32)
    part = {"bpa": {"layer": "layer3.0", "variant": "authors"}}
    keys = keys_of("bpa", {"steps": 3, "backward": [part]})
    wanted = small.torchattacks_images(torchattack.bpa.BPA, network, clean, hook_cfg="resnet50", eps=8 / 255, steps=3)
    assert small.apart(small.ours(small.source(network, 32), keys, clean), wanted) < 1e-4
    papers = small.ours(small.source(network, 32), keys_of("bpa", {"steps": 3}), clean)
    assert (np.abs(papers - wanted) > 1).mean() > 0.01


@pytest.mark.parametrize(("kernel", "stride", "padding", "ceil"), [(2, 2, 0, False), (3, 2, 1, False), (3, 2, 0, True)])
def test_pooling_and_relu_have_the_soft_derivatives(kernel, stride, padding, ceil):
    """Window by window: values are those of the maximum, gradients those of sum softmax(10 z) z with constant
    shares."""
    network, clean = small.vgg(), small.images(16)
    for layer in network.features:
        if isinstance(layer, torch.nn.MaxPool2d):
            layer.kernel_size, layer.stride, layer.padding, layer.ceil_mode = kernel, stride, padding, ceil

    def pooled(x, layer):
        hard = layer(x)
        rows = []
        for down in range(hard.shape[2]):
            for right in range(hard.shape[3]):
                top, left = down * stride - padding, right * stride - padding
                window = x[:, :, max(0, top) : top + kernel, max(0, left) : left + kernel].flatten(2)
                rows.append((window * (10 * window).softmax(2).detach()).sum(2))
        soft = torch.stack(rows, 2).view_as(hard)
        return soft + (hard - soft).detach()

    def smooth(x):
        soft = functional.silu(x)
        return soft + (x.relu() - soft).detach()

    def gradient(image, _):
        def forward(pixels):
            x = small.normalised(pixels)
            for place, layer in enumerate(network.features):
                if isinstance(layer, torch.nn.MaxPool2d):
                    x = pooled(x, layer)
                else:
                    x = smooth(x) if place > 3 and isinstance(layer, torch.nn.ReLU) else layer(x)
            return network.classifier(x.mean((2, 3)))

        return small.gradient_of(forward, image)[0]

    keys = keys_of("bpa", {"steps": 2, "backward": [{"bpa": {"layer": "features.3"}}]})
    wanted = small.looped(gradient, clean, steps=2, epsilon=8)
    assert small.apart(small.ours(small.source(network, 16), keys, clean), wanted) < 1e-4


def test_a_network_without_relus_is_refused():
    with pytest.raises(StudyError, match="no ReLU runs after"):
        small.ours(small.source(small.vit(32, 2), 32), keys_of("bpa", {"steps": 1}), small.images(32))
