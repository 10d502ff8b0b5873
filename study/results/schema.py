"""The row: one adversarial image shown to one target model. Success is derived from it, never stored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from study.planning.plan import Unit

SCHEMA_VERSION = 3
"""Goes up with every change of the columns. Parts of version 1 have no `top1`: it is the first of `top5`. Up to version
2 there was `white_box`, whether the target is a source, where there is `relation` now."""

SCHEMA = pa.schema(
    [
        pa.field("craft", pa.string(), nullable=False),
        pa.field("unit", pa.string(), nullable=False),
        pa.field("sources", pa.list_(pa.string()), nullable=False),
        pa.field("attack", pa.string(), nullable=False),
        pa.field("goal", pa.string(), nullable=False),
        pa.field("seed", pa.int64(), nullable=False),
        pa.field("steps", pa.int32(), nullable=False),
        pa.field("budget", pa.float64()),
        pa.field("gradients", pa.int32(), nullable=False),
        pa.field("image", pa.string(), nullable=False),
        pa.field("label", pa.int32(), nullable=False),
        pa.field("target_label", pa.int32()),
        pa.field("target", pa.string(), nullable=False),
        pa.field("relation", pa.string(), nullable=False),
        pa.field("clean_top1", pa.int32()),
        pa.field("top1", pa.int32()),
        pa.field("top5", pa.list_(pa.int32()), nullable=False),
        pa.field("top5_prob", pa.list_(pa.float32()), nullable=False),
        pa.field("names", pa.list_(pa.string())),
        pa.field("scores", pa.list_(pa.float32())),
        pa.field("clean_names", pa.list_(pa.string())),
        pa.field("wanted_names", pa.list_(pa.string())),
        pa.field("rmsd", pa.float64(), nullable=False),
        pa.field("linf", pa.float64(), nullable=False),
        pa.field("l2", pa.float64(), nullable=False),
    ]
)
"""Distances in pixel values 0..255. `target_label` is null where the goal is untargeted. `budget` is the epsilon, RMSD
or L2 norm that the attack names, null where it names none or matches another's; in a search of the minimal RMSD it is
where the search ended. `gradients` counts the image gradients that this image cost up to `steps`. `top1` is the first
of `top5` again, in a column of its own: rates over many millions of rows then read no list. `relation` is how the
target stands to the sources: `white`, `grey` or `black`, as `study.planning.relation` has it.

Of a remote service `top5` is empty, and `top1` and `clean_top1` are null: it speaks of labels of its own. `names` and
`scores` are what it answered, best first, `clean_names` what it answered for the clean image, `wanted_names` its names
for the target label (null where the goal is untargeted), all in lower case. These four are null for every other
target."""


@dataclass(frozen=True)
class Distances:
    """How far each image of a unit moved, float64 (V * N,) for V variants of N images, in pixel values."""

    rmsd: NDArray[np.float64]
    linf: NDArray[np.float64]
    l2: NDArray[np.float64]

    @classmethod
    def nowhere(cls, count: int) -> Distances:
        """Of images that have only a direction yet."""
        return cls(np.zeros(count), np.zeros(count), np.zeros(count))


@dataclass(frozen=True)
class TargetAnswers:
    """What one target said of a unit's V * N images: labels (V * N, K) `int32`, probabilities (V * N, K) `float32`.

    Where the target itself searched how far images must move, `moved` is where they ended, `levels` (N,) the budgets.
    A remote service says `names` and `scores` instead, for each image, best first; there K is 0.
    """

    target: str
    top5: NDArray[np.int32]
    top5_prob: NDArray[np.float32]
    moved: Distances | None = None
    levels: NDArray[np.float64] | None = None
    names: tuple[tuple[str, ...], ...] | None = None
    scores: tuple[tuple[float, ...], ...] | None = None


Wanted = Mapping[str, Mapping[int, tuple[str, ...]]]
"""What each remote service calls a label of the study, by the name of its model."""


def table(unit: Unit, moved: Distances, said: Sequence[TargetAnswers], wanted: Wanted | None = None) -> pa.Table:
    """The rows of one unit: target by target, variant by variant, in the order of its images."""
    craft, points = unit.craft, unit.craft.recipe.points
    images, times = unit.shard.images * len(points), len(said)
    count = len(images)
    targeted = craft.goal == "targeted"
    shown = [point for point in points for _ in unit.shard.images]
    went = [one.moved or moved for one in said]
    budgets = [
        level for one in said for level in (one.levels.tolist() if one.levels is not None else [at for _, at in shown])
    ]
    columns = {
        "craft": [craft.id] * (count * times),
        "unit": [unit.id] * (count * times),
        "sources": [list(craft.sources)] * (count * times),
        "attack": [craft.attack] * (count * times),
        "goal": [craft.goal] * (count * times),
        "seed": [craft.seed] * (count * times),
        "steps": [steps for steps, _ in shown] * times,
        "budget": budgets,
        "gradients": [craft.recipe.gradients(steps, len(craft.sources)) for steps, _ in shown] * times,
        "image": [one.image for one in images] * times,
        "label": [one.label for one in images] * times,
        "target_label": [one.target_label if targeted else None for one in images] * times,
        "target": [one.target for one in said for _ in images],
        "relation": [craft.relations[one.target] for one in said for _ in images],
        "clean_top1": [next(iter(image.clean[one.target].top5), None) for one in said for image in images],
        "top1": [row[0] if row else None for one in said for row in one.top5.tolist()],
        "top5": [row for one in said for row in one.top5.tolist()],
        "top5_prob": [row for one in said for row in one.top5_prob.tolist()],
        "names": [one.names[row] if one.names else None for one in said for row in range(count)],
        "scores": [one.scores[row] if one.scores else None for one in said for row in range(count)],
        "clean_names": [image.clean[one.target].names if one.names else None for one in said for image in images],
        "wanted_names": [
            (wanted or {})[one.target][image.target_label] if one.names and targeted else None
            for one in said
            for image in images
        ],
        "rmsd": np.concatenate([one.rmsd for one in went]),
        "linf": np.concatenate([one.linf for one in went]),
        "l2": np.concatenate([one.l2 for one in went]),
    }
    return pa.table(columns, schema=SCHEMA)
