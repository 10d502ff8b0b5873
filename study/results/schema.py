"""The row: one adversarial image shown to one target model. Success is derived from it, never stored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from study.plan import Unit

SCHEMA = pa.schema(
    [
        pa.field("craft", pa.string(), nullable=False),
        pa.field("unit", pa.string(), nullable=False),
        pa.field("sources", pa.list_(pa.string()), nullable=False),
        pa.field("attack", pa.string(), nullable=False),
        pa.field("goal", pa.string(), nullable=False),
        pa.field("seed", pa.int64(), nullable=False),
        pa.field("steps", pa.int32(), nullable=False),
        pa.field("image", pa.string(), nullable=False),
        pa.field("label", pa.int32(), nullable=False),
        pa.field("target_label", pa.int32()),
        pa.field("target", pa.string(), nullable=False),
        pa.field("white_box", pa.bool_(), nullable=False),
        pa.field("clean_top1", pa.int32(), nullable=False),
        pa.field("top5", pa.list_(pa.int32()), nullable=False),
        pa.field("top5_prob", pa.list_(pa.float32()), nullable=False),
        pa.field("rmsd", pa.float64(), nullable=False),
        pa.field("linf", pa.float64(), nullable=False),
        pa.field("l2", pa.float64(), nullable=False),
    ]
)
"""Distances in pixel values 0..255. `target_label` is null where the goal is untargeted."""


@dataclass(frozen=True)
class Moved:
    """How far each image of a unit moved, float64 (N,), in pixel values."""

    rmsd: NDArray[np.float64]
    linf: NDArray[np.float64]
    l2: NDArray[np.float64]


@dataclass(frozen=True)
class Said:
    """What one target said of a unit's images: labels (N, 5) `int32`, probabilities (N, 5) `float32`."""

    target: str
    top5: NDArray[np.int32]
    top5_prob: NDArray[np.float32]


def table(unit: Unit, moved: Moved, said: Sequence[Said]) -> pa.Table:
    """The rows of one unit, target by target, in the order of its images."""
    images, craft = unit.shard.images, unit.craft
    count, times = len(images), len(said)
    targeted = craft.goal == "targeted"
    columns = {
        "craft": [craft.id] * (count * times),
        "unit": [unit.id] * (count * times),
        "sources": [list(craft.sources)] * (count * times),
        "attack": [craft.attack] * (count * times),
        "goal": [craft.goal] * (count * times),
        "seed": [craft.seed] * (count * times),
        "steps": [craft.recipe.steps] * (count * times),
        "image": [one.image for one in images] * times,
        "label": [one.label for one in images] * times,
        "target_label": [one.target_label if targeted else None for one in images] * times,
        "target": [one.target for one in said for _ in images],
        "white_box": [one.target in craft.sources for one in said for _ in images],
        "clean_top1": [image.clean[one.target].top5[0] for one in said for image in images],
        "top5": [row for one in said for row in one.top5.tolist()],
        "top5_prob": [row for one in said for row in one.top5_prob.tolist()],
        "rmsd": np.tile(moved.rmsd, times),
        "linf": np.tile(moved.linf, times),
        "l2": np.tile(moved.l2, times),
    }
    return pa.table(columns, schema=SCHEMA)
