"""Features of clean images at narrow layers: which layers are narrow, and which axis of them is the channels."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from study.errors import StudyError
from study.models.clean_features import by_channel, clean_features


class ChannelsLast(nn.Module):
    """A wide convolution, a linear layer on (N, H, W, C) as in Swin and ConvNeXt, a narrow convolution, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.wide = nn.Conv2d(3, 24, 3, padding=1)
        self.mlp = nn.Linear(24, 24)
        self.narrow = nn.Conv2d(24, 6, 8, stride=8)
        self.head = nn.Linear(6, 5)

    def forward(self, images):
        features = self.mlp(self.wide(images).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return self.head(self.narrow(features).mean((2, 3)))


def test_every_linear_layer_is_narrow_and_its_channels_are_the_last_axis():
    images = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 255
    network = ChannelsLast().eval()
    found = clean_features(network, images, divisor=4)
    assert {name: tuple(kept[0].shape) for name, kept in found.features.items()} == {
        "mlp": (3, 16, 16, 24),
        "narrow": (3, 6, 2, 2),
        "head": (3, 5),
    }
    torch.testing.assert_close(found.features["mlp"][0], network.mlp(network.wide(images).permute(0, 2, 3, 1)))
    axes = {name: found.axis_of_channels(name, kept[0]) for name, kept in found.features.items()}
    assert axes == {"mlp": 3, "narrow": 1, "head": 1}
    shares = by_channel(torch.rand(3, 24), found.features["mlp"][0], axes["mlp"])
    assert shares.shape == (3, 1, 1, 24)


def test_a_network_without_narrow_layers_is_refused():
    network = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    with pytest.raises(StudyError, match="no linear layer, and no convolution with an output of at most 4 x 4"):
        clean_features(network.eval(), torch.zeros(1, 3, 16, 16), divisor=4)
