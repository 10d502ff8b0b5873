"""What the tests of components share: an attack in double precision, and the pieces of naive loops beside it."""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional

from study.attacks import Attack
from study.attacks.loop import Engine, ImageBatch, perturbations
from study.attacks.presets import keys_of
from study.reproducibility.rng import Streams

KEY = ("components",)
LABELS = np.array([1, 2, 3, 4, 5, 6])
IDS = [f"image{index}" for index in range(6)]
GOALS = ("untargeted", "targeted")
SIGN = {"untargeted": -1, "targeted": 1}


class Pixels(torch.nn.Module):
    """A double-precision network on pixel values. Its logits are far apart, so that gradients are not all alike."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, x):
        return 40 * self.network(x.double() / 255 - 0.5)


def _network():
    """A small smooth classifier of 12x12 pixels with fixed random weights."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = (
            torch.nn.Conv2d(3, 8, 3, padding=1),
            torch.nn.SiLU(),
            torch.nn.Conv2d(8, 8, 3, stride=2, padding=1),
            torch.nn.SiLU(),
            torch.nn.Flatten(),
            torch.nn.Linear(8 * 6 * 6, 10),
        )
    return torch.nn.Sequential(*layers).double().eval().requires_grad_(False)


PIXELS = Pixels(_network()).eval()


def streams():
    return Streams(KEY, IDS)


def uniform(shape, purpose, step, number):
    return streams().uniform(shape, "cpu", purpose, step, number).double()


def attacked(model, preset, changes, clean, goal="untargeted"):
    """The float images at the end of an attack of ours, projected as every step's are."""
    attack = Attack.model_validate(keys_of(preset, changes) if preset else changes)
    given = ImageBatch(clean, LABELS, IDS)
    engine = Engine(batch=6, layout="contiguous")
    found = perturbations([model], attack, goal, given, key=KEY, engine=engine)
    delta = next(found)[1][-1]
    origin = torch.from_numpy(clean).float()
    return (origin + attack.assembly.budget.projection(origin, attack.budget.levels, None)(delta)).double()


def gain(logits, goal):
    """The sum of what cross-entropy maximises."""
    return -SIGN[goal] * functional.cross_entropy(logits, torch.from_numpy(LABELS), reduction="sum")


def gradient(model, x, goal, of=gain):
    x = x.detach().requires_grad_(True)
    return torch.autograd.grad(of(model(x), goal), x)[0]


def n(g):
    return g / g.abs().mean((1, 2, 3), keepdim=True)


def clip(x, clean, epsilon=16):
    return x.clamp(clean - epsilon, clean + epsilon).clamp(0, 255)


def diversified(x, words, probability):
    """Resize and pad each image by torch's functions, and resize it back."""
    size = x.shape[-1]
    frame = round(size * 330 / 299)
    rows = []
    for image, (chance, extent, top, left) in zip(x, words.tolist(), strict=True):
        row = image[None]
        if chance / 2**64 < probability:
            inner = size + extent % (frame - size)
            up, before = top % (frame - inner + 1), left % (frame - inner + 1)
            row = functional.interpolate(row, (inner, inner), mode="nearest")
            row = functional.pad(row, (before, frame - inner - before, up, frame - inner - up))
            row = functional.interpolate(row, (size, size), mode="bilinear", align_corners=False)
        rows.append(row)
    return torch.cat(rows)


def smoothed(g):
    """Convolve with the 5 x 5 Gaussian that ends at three standard deviations, as torch convolves."""
    line = torch.exp(-torch.linspace(-3, 3, 5, dtype=torch.float64).square() / 2)
    kernel = torch.outer(line, line)
    return functional.conv2d(g, (kernel / kernel.sum()).expand(3, 1, 5, 5), padding=2, groups=3)
