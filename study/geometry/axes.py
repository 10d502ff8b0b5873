"""Computes the axes of lines and planes through an image: random directions, gradients, or perturbations of attacks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from study.attacks.loop import Engine, ImageBatch, craft, step_directions
from study.attacks.passes import Logits
from study.errors import StudyError
from study.geometry import gradients
from study.geometry.plan import ProbeTask
from study.geometry.spec import Direction
from study.reproducibility.rng import Streams

Axes = NDArray[np.float64]
"""The axes of one line or plane: K = 1 or 2 directions, float64 (K, C, H, W), each with an RMSD of 1."""

_PARALLEL = 1e-5
"""The smallest share of its length that a direction must keep when it is made orthogonal to another direction.

A smaller remainder is only rounding error, because the two directions are parallel."""


def axes(task: ProbeTask, models: Mapping[str, Logits], clean: NDArray[np.uint8], *, engine: Engine) -> list[Axes]:
    """Return the axes of the probe's line or plane for every image of `clean`, `uint8` (N, C, H, W).

    With `step: l2`, the two axes of a plane are orthogonal. Raises StudyError if a direction does not exist for an
    image: a gradient is zero, an attack did not change the image, or `across` is parallel to `along`.
    """
    found = [_directions(one, task, models, clean, engine=engine) for one in task.probe.directions]
    return [_axes([direction[row] for direction in found], task, image) for row, image in enumerate(task.images)]


def _directions(
    direction: Direction, task: ProbeTask, models: Mapping[str, Logits], clean: NDArray[np.uint8], *, engine: Engine
) -> NDArray[np.float64]:
    """Return the direction for every image, float64 (N, C, H, W). It is not yet scaled to an RMSD of 1."""
    if direction.random is not None:
        streams = Streams((task.seed, "geometry", "random", direction.random), task.images)
        return streams.normal(clean.shape[1:], "cpu", "gaussian").numpy().astype(np.float64)
    true = np.array(task.labels, dtype=np.int64)
    wanted = np.array(task.targets, dtype=np.int64) if direction.goal == "targeted" else true
    given = ImageBatch(clean, wanted, task.images, own=true)
    sources = direction.models(task.models[0])
    held = [models[name] for name in sources]
    if direction.attack is not None:
        recipe = task.attacks[direction.attack]
        key: tuple[object, ...] = (task.attack_seed, sources, direction.attack, direction.goal)
        crafted = craft(held, recipe, direction.goal, given, key=key, engine=engine, names=sources)
        # The pixels of the finished attack come after those of its checkpoints.
        return crafted.pixels[-len(clean) :].astype(np.float64) - clean
    recipe = gradients.one_step(direction.objective, direction.smoothing)
    key = gradients.key(task.seed, sources, direction.goal)
    steps = step_directions(held, recipe, direction.goal, given, key=key, engine=engine, names=sources)
    return steps.astype(np.float64)


def _axes(directions: Sequence[NDArray[np.float64]], task: ProbeTask, image: str) -> Axes:
    """Return the axes for one image: `directions` made orthogonal by Gram-Schmidt and scaled to an RMSD of 1.

    With `step: sign`, the axes are the signs of these orthogonal directions. Raises StudyError if a direction is zero
    or parallel to the first.
    """
    found: list[NDArray[np.float64]] = []
    for given, direction in zip(directions, task.probe.directions, strict=True):
        rest = given
        for before in found:
            rest = rest - before * float((before * rest).mean())
        if _rmsd(rest) <= _PARALLEL * _rmsd(given):
            what = "is parallel to the first" if _rmsd(given) else "is zero"
            raise StudyError(
                f"{image}: the direction '{direction.title}' {what}",
                where=f"geometry.{task.name}",
                todo="leave this image out of the probe, or choose another direction",
            )
        found.append(rest / _rmsd(rest))
    if task.probe.step == "sign":
        found = [np.sign(one) for one in found]
    return np.stack(found)


def _rmsd(direction: NDArray[np.float64]) -> float:
    return float(np.sqrt(np.square(direction).mean()))
