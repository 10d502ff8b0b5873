"""Directions through an image: random, gradients, the ways of attacks; made into the axes of lines and planes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from study.attacks.gradient import Logits
from study.attacks.loop import Engine, ImageBatch, craft, rays
from study.errors import StudyError
from study.geometry import gradients
from study.geometry.plan import Question
from study.geometry.spec import Direction
from study.reproducibility.rng import Streams

Axes = NDArray[np.float64]
"""One or two directions (K, C, H, W) of an RMSD of 1."""

_PARALLEL = 1e-5
"""Share of its length below which what is left of a direction is rounding."""


def axes(question: Question, models: Mapping[str, Logits], clean: NDArray[np.uint8], *, engine: Engine) -> list[Axes]:
    """For every image of `clean`, `uint8` (N, C, H, W), the axes of its line or plane, orthogonal but for signs.

    Raises StudyError where an image has no such direction: a gradient is zero, an attack went nowhere, or `across`
    leads the same way as `along`.
    """
    ways = [_ways(one, question, models, clean, engine=engine) for one in question.probe.directions]
    return [_axes([way[row] for way in ways], question, image) for row, image in enumerate(question.images)]


def _ways(
    direction: Direction, question: Question, models: Mapping[str, Logits], clean: NDArray[np.uint8], *, engine: Engine
) -> NDArray[np.float64]:
    """One direction for every image, of any length, float64 (N, C, H, W)."""
    if direction.random is not None:
        streams = Streams((question.seed, "geometry", "random", direction.random), question.images)
        return streams.normal(clean.shape[1:], "cpu", "gaussian").numpy().astype(np.float64)
    true = np.array(question.labels, dtype=np.int64)
    wanted = np.array(question.targets, dtype=np.int64) if direction.goal == "targeted" else true
    given = ImageBatch(clean, wanted, question.images, own=true)
    sources = direction.models(question.models[0])
    held = [models[name] for name in sources]
    if direction.attack is not None:
        recipe = question.attacks[direction.attack]
        key: tuple[object, ...] = (question.attack_seed, sources, direction.attack, direction.goal)
        crafted = craft(held, recipe, direction.goal, given, key=key, engine=engine, names=sources)
        # The finished attack stands last of its checkpoints.
        return crafted.pixels[-len(clean) :].astype(np.float64) - clean
    recipe = gradients.step(direction.objective, direction.smoothing)
    key = gradients.key(question.seed, sources, direction.goal)
    return rays(held, recipe, direction.goal, given, key=key, engine=engine, names=sources).astype(np.float64)


def _axes(ways: Sequence[NDArray[np.float64]], question: Question, image: str) -> Axes:
    """Gram-Schmidt, then the length, or the signs."""
    found: list[NDArray[np.float64]] = []
    for way, direction in zip(ways, question.probe.directions, strict=True):
        rest = way
        for before in found:
            rest = rest - before * float((before * rest).mean())
        if _rmsd(rest) <= _PARALLEL * _rmsd(way):
            what = "leads the same way as the first" if _rmsd(way) else "leads nowhere"
            raise StudyError(
                f"{image}: the direction '{direction.title}' {what}",
                where=f"geometry.{question.name}",
                todo="leave this image out of the probe, or choose another direction",
            )
        found.append(rest / _rmsd(rest))
    if question.probe.step == "sign":
        found = [np.sign(one) for one in found]
    return np.stack(found)


def _rmsd(direction: NDArray[np.float64]) -> float:
    return float(np.sqrt(np.square(direction).mean()))
