"""A network of the user's own with exact weights, which imports nothing from beside it."""

import torch
from torch import nn


def make(width=2):
    network = nn.Sequential(
        nn.Conv2d(3, width, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 10)
    )
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.arange(parameter.numel()).view_as(parameter) / 64)
    return network
