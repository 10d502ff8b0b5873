"""An attack written out image by image: one image, one view at a time, in plain torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from study.attacks import Attack
from study.attacks.kinds import Pool
from study.attacks.loop import Engine, ImageBatch, perturbations
from study.reproducibility.rng import Streams

LABELS = np.array([1, 2, 3, 4, 5, 6])
IDS = [f"image{index}" for index in range(6)]
KEY = ("transforms",)

Model = Callable[[Tensor], Tensor]


def in_double(network: torch.nn.Module) -> Model:
    """The network in double precision, so that no sign hangs on a rounding; it takes and differentiates float32."""
    return lambda image: 40 * network(image.double() / 255 - 0.5)


def loss(model: Model, seen: Tensor, label: int) -> Tensor:
    return functional.cross_entropy(model(seen), torch.full((len(seen),), int(label)))


def ours(model: Model, keys: dict[str, object], clean: np.ndarray, pool: Pool | None = None) -> Tensor:
    """The perturbations at the end of our attack."""
    delta = unprojected(model, keys, clean, pool)
    attack = Attack.model_validate(keys)
    return attack.assembly.budget.projection(torch.from_numpy(clean).float(), attack.budget.levels, None)(delta)


def unprojected(model: Model, keys: dict[str, object], clean: np.ndarray, pool: Pool | None = None) -> Tensor:
    """The perturbations after the last step of our attack, before they are projected."""
    given = ImageBatch(clean, LABELS[: len(clean)], IDS[: len(clean)])
    engine = Engine(batch=6, layout="contiguous")
    attack = Attack.model_validate(keys)
    found = perturbations([model], attack, "untargeted", given, key=KEY, engine=engine, pool=pool)
    return torch.cat([deltas[-1] for _, deltas, _ in found])


class Draws:
    """The draws of a component for one image."""

    def __init__(self, row: int, name: str) -> None:
        self._streams = Streams(KEY, [IDS[row]])
        self._name = name

    def words(self, count: int, stream: str = "", step: int = 0, number: int = 0) -> list[int]:
        return self._streams.integers(count, self._purpose(stream), step, number)[0].tolist()

    def uniform(self, shape: Sequence[int], stream: str = "", step: int = 0, number: int = 0) -> Tensor:
        return self._streams.uniform(shape, "cpu", self._purpose(stream), step, number)[0]

    def normal(self, shape: Sequence[int], stream: str = "", step: int = 0, number: int = 0) -> Tensor:
        return self._streams.normal(shape, "cpu", self._purpose(stream), step, number)[0]

    def _purpose(self, stream: str) -> str:
        return f"{self._name}.{stream}" if stream else self._name


def by_hand(
    clean: np.ndarray,
    gradient: Callable[[Tensor, int, int], Tensor],
    *,
    steps: int,
    epsilon: float,
    size: float,
) -> Tensor:
    """The perturbations of signs of a momentum of 1; `gradient(image, row, step)` is that of one image (1, C, H, W)."""
    found = []
    for row, pixels in enumerate(torch.from_numpy(clean).float()):
        origin = pixels[None]
        delta, momentum = torch.zeros_like(origin), torch.zeros_like(origin)
        for step in range(steps):
            here = gradient(origin + delta, row, step)
            momentum = momentum + here / here.abs().mean()
            delta = (delta + size * momentum.sign()).clamp(-epsilon, epsilon)
            delta = (origin + delta).clamp(0, 255) - origin
        found.append(delta)
    return torch.cat(found)


def turned(image: Tensor, degrees: float) -> Tensor:
    """The images turned counter-clockwise about their centre, to the nearest pixels, by torch's grid_sample.

    Pixels half-way between two are those below and to the right, as a nudge by 1e-7 pixels decides.
    """
    size, angle = image.shape[-1], np.deg2rad(degrees)
    line = torch.arange(size, dtype=torch.float64) + 0.5 - size / 2
    down, right = torch.meshgrid(line, line, indexing="ij")
    places = torch.stack(
        [np.cos(angle) * right - np.sin(angle) * down, np.sin(angle) * right + np.cos(angle) * down], -1
    )
    grid = ((places + 1e-7) * 2 / size).expand(len(image), -1, -1, -1)
    return functional.grid_sample(image.double(), grid, mode="nearest", align_corners=False).to(image.dtype)
