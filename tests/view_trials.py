"""What tests of views share: images, keyed draws, the copies that a view makes, and a small classifier."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from study.attacks import Attack
from study.attacks.kinds import Pool, View
from study.attacks.loop import Engine, ImageBatch, craft
from study.attacks.views import Views
from study.reproducibility.rng import Streams

KEY = ("view trials",)
LABELS = np.array([1, 2, 3, 4])
IDS = [f"image{index}" for index in range(4)]
STREAMS = Streams(KEY, IDS)


def pixels(height: int, width: int | None = None) -> NDArray[np.uint8]:
    """Four random images (4, 3, H, W)."""
    return np.random.default_rng(0).integers(0, 256, (4, 3, height, width or height), dtype=np.uint8)


def others(size: int) -> Pool:
    """Five other images."""
    drawn = np.random.default_rng(1).integers(0, 256, (5, 3, size, size), dtype=np.uint8)
    return Pool(drawn, np.arange(5))


def made(
    views: Sequence[View],
    image: Tensor,
    copy: int,
    *,
    step: int = 0,
    pool: Pool | None = None,
    origin: Tensor | None = None,
) -> Tensor:
    """Copy number `copy` of `image`, as an attack makes it."""
    origin = image.detach() if origin is None else origin
    of_batch = Views(views, STREAMS, LABELS, pool, origin=origin, steps=10, epsilon=16)
    return of_batch.make(image, step, copy, torch.zeros_like)


def classifier(size: int) -> torch.nn.Module:
    """A small smooth network in double precision with fixed random weights, for pixel values 0..255."""
    torch.manual_seed(0)
    layers = (
        torch.nn.Conv2d(3, 6, 3, stride=2, padding=1),
        torch.nn.SiLU(),
        torch.nn.Conv2d(6, 6, 3, stride=2, padding=1),
        torch.nn.SiLU(),
        torch.nn.Flatten(),
        torch.nn.Linear(6 * ((size + 3) // 4) ** 2, 10),
    )
    return torch.nn.Sequential(*layers).double().eval().requires_grad_(False)


def logits_of(network: torch.nn.Module):
    """The network as a source model: float pixels (N, C, H, W) to logits."""
    return lambda image: 20 * network(image.double() / 255 - 0.5)


def gradient(logits: Tensor, image: Tensor) -> Tensor:
    """The gradient of the cross-entropy of `logits` (copies, N, classes), averaged over copies, in `image`."""
    labels = torch.from_numpy(LABELS).repeat(len(logits))
    loss = functional.cross_entropy(logits.flatten(0, 1), labels, reduction="sum") / len(logits)
    return torch.autograd.grad(loss, image)[0]


def ascent(
    directions, clean: Tensor, steps: int, size: float, *, momentum: float = 1.0, epsilon: float = 16.0
) -> Tensor:
    """MI written out: `directions(image, step)` are gradients; the image after `steps`."""
    image, kept = clean.clone(), torch.zeros_like(clean)
    for step in range(steps):
        found = directions(image, step)
        kept = momentum * kept + found / found.abs().mean((1, 2, 3), keepdim=True)
        image = (image + size * kept.sign()).clamp(clean - epsilon, clean + epsilon).clamp(0, 255)
    return image


def attacked(model, keys: dict, images: NDArray[np.uint8], goal: str = "untargeted", pool: Pool | None = None):
    """The finished images of an attack."""
    attack = Attack.model_validate(keys)
    engine = Engine(batch=4, layout="contiguous")
    return craft([model], attack, goal, ImageBatch(images, LABELS, IDS), key=KEY, engine=engine, pool=pool).pixels


def differing(found: NDArray[np.uint8], expected: Tensor) -> float:
    """The share of pixels that differ by more than 1 from those of `expected`: where a gradient's sign is rounding."""
    return float((np.abs(found.astype(float) - expected.round().numpy()) > 1).mean())
