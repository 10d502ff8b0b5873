"""Computes gradients of single models, plain or smoothed, and cosines between two gradients."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from study.attacks.gradient import BatchGradients
from study.attacks.loop import Engine, ImageBatch
from study.attacks.passes import Logits, groups, in_precision
from study.attacks.recipe import Attack, Goal, Smoothing
from study.attacks.views import Views
from study.errors import StudyError
from study.reproducibility import numerics
from study.reproducibility.rng import Streams


def one_step(objective: str, smoothing: Smoothing | None) -> Attack:
    """Return the recipe of an attack that makes one step of RMSD 1 along the gradient."""
    keys: dict[str, Any] = {"objective": objective, "step": "l2", "steps": 1, "step_size": 1.0}
    return Attack.model_validate(keys | ({"smoothing": smoothing} if smoothing else {}))


def key(seed: int, models: Sequence[str], goal: Goal) -> tuple[object, ...]:
    """Return the key that seeds the smoothing noise.

    The key does not contain the name of the probe, so that two probes get the same smoothed gradient.
    """
    return (seed, "geometry", tuple(models), goal)


def batches(given: ImageBatch, engine: Engine) -> Iterator[ImageBatch]:
    """Yield the images in batches of the size that attacks use."""
    for first in range(0, len(given.clean), engine.batch_size):
        yield given.take(range(first, min(first + engine.batch_size, len(given.clean))))


def gradients(
    model: Logits,
    name: str,
    batch: ImageBatch,
    *,
    engine: Engine,
    seed: int,
    goal: Goal,
    objective: str,
    smoothing: tuple[Sequence[int], float] | None = None,
) -> list[NDArray[np.float32]]:
    """Return the gradients of one model's loss at the N clean images of `batch`, each (N, C, H, W).

    `smoothing`: the numbers of copies, and sigma. The list then has one array for each number of copies. If `smoothing`
    is None, the list has one array: the plain gradients. A smoothed gradient is the mean over copies of the image with
    different noise. The largest number of copies is computed; smaller numbers take the mean over the first of these
    copies. Raises StudyError, with the images' ids, if a gradient is not finite.
    """
    counts, sigma = smoothing or ((1,), None)
    # One call of `of` returns the mean over `piece` copies. Every number of copies is a multiple of `piece`.
    piece = math.gcd(*counts)
    recipe = one_step(objective, None if sigma is None else Smoothing(copies=piece, sigma=sigma))
    of = _prepared(model, batch, recipe, engine=engine, key=key(seed, (name,), goal), goal=goal)
    total: Tensor | None = None
    found = {}
    for number in range(max(counts) // piece):
        part = of(number)
        total = part if total is None else total + part
        if (number + 1) * piece in counts:
            found[(number + 1) * piece] = (total / (number + 1)).cpu().contiguous().numpy()[: len(batch.images)]
    return [_finite(found[count], batch.images, name) for count in counts]


def _prepared(
    model: Logits, batch: ImageBatch, recipe: Attack, *, engine: Engine, key: tuple[object, ...], goal: Goal
) -> Callable[[int], Tensor]:
    """Return a function that maps an integer i to mean gradients, one for each image of the padded batch.

    A gradient is the mean over the i-th group of noisy copies of the clean image. `recipe` has the number of copies in
    a group. The batch is padded to the full batch size by repeating its last image.
    """
    count = len(batch.images)
    padded = batch.take([*range(count), *[count - 1] * (engine.batch_size - count)])
    streams = Streams(key, padded.images)
    assembly = recipe.assembly
    labels = torch.from_numpy(padded.labels).to(engine.device)
    pixels = torch.from_numpy(padded.clean).to(engine.device)
    image = pixels.to(torch.float32, memory_format=numerics.memory_format(engine.layout))
    views = Views(assembly.views, streams, padded.true, None, origin=image)
    taken = BatchGradients(assembly, goal, labels, views, streams, image, engine.pass_limit, engine.precision)
    (group,) = groups(in_precision([model], engine.precision), [1.0], separate=False)
    return functools.partial(taken.of, group, image, 0)


def _finite(gradient: NDArray[np.float32], images: Sequence[str], model: str) -> NDArray[np.float32]:
    broken = [image for image, one in zip(images, gradient, strict=True) if not np.isfinite(one).all()]
    if broken:
        raise StudyError(
            f"the gradient of {model} for {', '.join(broken)} is not finite",
            todo="check the model's weights and preprocessing; no row of this unit was written",
        )
    return gradient


def cosine(first: NDArray[np.float32], second: NDArray[np.float32]) -> float | None:
    """Return the cosine of the angle between two gradients of one image; None if one of the gradients is zero."""
    # Gradients of a saturated model are so small that their squares underflow in float32, but not in float64.
    one, other = first.ravel().astype(np.float64), second.ravel().astype(np.float64)
    lengths = float(np.linalg.norm(one)) * float(np.linalg.norm(other))
    return float(one @ other) / lengths if lengths else None
