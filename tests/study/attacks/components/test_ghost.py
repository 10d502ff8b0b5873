"""Ghost networks against a residual network, and a network without skip connections, written out by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from study.attacks.presets import keys_of
from tests.study.attacks.components import small_sources as small


def resnet_by_hand(network, factor):
    """`factor(block, channels)` (N, 1 or channels, 1, 1) multiplies what a skip connection carries."""

    def forward(pixels):
        x = network.maxpool(network.relu(network.bn1(network.conv1(small.normalised(pixels)))))
        for stage in ("layer1", "layer2", "layer3", "layer4"):
            for index, block in enumerate(getattr(network, stage)):
                f = block.bn1(block.conv1(x)).relu()
                f = block.bn3(block.conv3(block.bn2(block.conv2(f)).relu()))
                skip = x if block.downsample is None else block.downsample(x)
                x = (factor(f"{stage}.{index}.bn3", skip.shape[1]) * skip + f).relu()
        return network.fc(x.mean((2, 3)))

    return forward


@pytest.mark.parametrize("variant", ["paper", "authors"])
def test_skip_connections_have_the_drawn_weights(variant):
    network, clean = small.resnet(), small.images(32)
    keys = keys_of("ghost", {"steps": 3, "forward": [{"ghost": {"variant": variant}}]})

    def gradient(image, step):
        def factor(block, channels):
            count = 1 if variant == "paper" else channels
            drawn = small.STREAMS.uniform((count,), "cpu", f"ghost.0.{block}", step, 0)
            return 1 + 0.22 * drawn[..., None, None].double()

        return small.gradient_of(resnet_by_hand(network, factor), image)[0]

    wanted = small.looped(gradient, clean, steps=3)
    assert small.apart(small.ours(small.source(network, 32), keys, clean), wanted) < 1e-4
    plain = small.ours(small.source(network, 32), keys_of("mi", {"steps": 3}), clean)
    assert (np.abs(plain - wanted) > 1).mean() > 0.01


def test_features_are_dropped_where_there_is_no_skip_connection():
    network, clean = small.vgg(), small.images(16)
    keys = keys_of("ghost", {"steps": 3, "forward": [{"ghost": {"dropout": 0.2}}]})
    sizes: dict[int, float] = {}

    def gradient(image, step):
        def forward(pixels):
            x = small.normalised(pixels)
            for place, layer in enumerate(network.features):
                x = layer(x)
                if isinstance(layer, torch.nn.ReLU | torch.nn.MaxPool2d):
                    drawn = small.STREAMS.uniform(x.shape[1:], "cpu", f"ghost.0.features.{place}", step, 0)
                    kept = (drawn + 1) / 2 < 0.8
                    sizes[place] = float(kept.float().mean())
                    x = x * kept / 0.8
            return network.classifier(x.mean((2, 3)))

        return small.gradient_of(forward, image)[0]

    wanted = small.looped(gradient, clean, steps=3)
    assert small.apart(small.ours(small.source(network, 16), keys, clean), wanted) < 1e-4
    assert len(sizes) == 6
    assert all(share == pytest.approx(0.8, abs=0.08) for share in sizes.values())
