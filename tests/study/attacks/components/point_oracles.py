"""What the tests of rules for places and steps share: a network on pixel values in double precision, plain formulas."""

from __future__ import annotations

import copy

import numpy as np
import torch
from torch.nn import functional

from study.attacks import Attack
from study.attacks.loop import Engine, ImageBatch, perturbations
from study.reproducibility.rng import Streams

LABELS = np.array([1, 2, 3, 4, 5, 6])
IDS = [f"image{index}" for index in range(6)]
KEY = ("places",)
SHAPE = (3, 12, 12)
TOLERANCE = 1e-4
"""Pixel values."""


class Pixels(torch.nn.Module):
    """A double-precision copy of a network on pixel values, with logits that are neither flat nor saturated."""

    def __init__(self, network: torch.nn.Module) -> None:
        super().__init__()
        self.network = copy.deepcopy(network).double()
        self.eval()

    def forward(self, x):
        return 40 * self.network(x.double() / 255 - 0.5)


def slope(model, x, targets=LABELS, sign=1):
    """The gradient of each image's cross-entropy, times `sign`."""
    x = x.detach().requires_grad_(True)
    loss = sign * functional.cross_entropy(model(x), torch.from_numpy(targets), reduction="sum")
    return torch.autograd.grad(loss, x)[0]


def mean_one(gradient):
    """The gradient of each image divided by the mean of its absolute values."""
    return torch.stack([one / one.abs().mean() for one in gradient])


def drawn(purpose, step, number):
    """The engine's uniform numbers in (-1, 1) of one component, step and number."""
    return Streams(KEY, IDS).uniform(SHAPE, "cpu", purpose, step, number).double()


def clipped(x, clean, epsilon=16):
    """Within epsilon of `clean` and 0..255."""
    return torch.minimum(torch.maximum(x, clean - epsilon), clean + epsilon).clamp(0, 255)


def double(images):
    return torch.from_numpy(images).double()


def ours(model, keys, images, goal="untargeted"):
    """Float images at the end of an attack, projected as every step's are."""
    attack = Attack.model_validate(keys)
    given = ImageBatch(images, LABELS[: len(images)], IDS[: len(images)])
    engine = Engine(batch=3, layout="contiguous")
    found = perturbations([model], attack, goal, given, key=KEY, engine=engine)
    delta = torch.cat([deltas[-1] for _, deltas, _ in found])
    origin = torch.from_numpy(images).float()
    return (origin + attack.assembly.budget.projection(origin, attack.budget.levels, None)(delta)).double()


def assert_same(found, expected):
    assert (found - expected).abs().max() < TOLERANCE
