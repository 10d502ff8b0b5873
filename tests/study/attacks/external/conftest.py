"""Source models and images for somebody else's attacks."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torchvision.models import get_model
from torchvision.models.resnet import BasicBlock, ResNet

from study.models.classifier import Classifier, Preprocessing

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def classifier(seed: int, network: str = "resnet18", **changes) -> Classifier:
    """A network with random weights for images of 32 x 32 pixels and 10 labels; a ResNet-18 has five of its blocks."""
    torch.manual_seed(seed)
    short = network == "resnet18"
    return Classifier(
        ResNet(BasicBlock, [1, 2, 1, 1], num_classes=10) if short else get_model(network, num_classes=10),
        Preprocessing(**{"size": 32, "interpolation": "bilinear", "mean": MEAN, "std": STD} | changes),
        labels=10,
        identity=f"test {seed}",
    )


@pytest.fixture(scope="session")
def source() -> Classifier:
    return classifier(0)


@pytest.fixture(scope="session")
def second() -> Classifier:
    return classifier(1)


@pytest.fixture(scope="session")
def clean() -> np.ndarray:
    """Five images, no pixel of which is near the ends of 0..255."""
    return np.random.default_rng(0).integers(60, 196, (5, 3, 32, 32), dtype=np.uint8)
