"""The size of a plan: the numbers of gradients, predictions, rows and bytes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from study.geometry.plan import GeometryPlan
from study.planning.plan import Plan

_ROW_BYTES = 45
"""Estimated size of a compressed row, in bytes.

The measured size is 35 to 65 bytes in Parquet files with many rows, and 170 in files with a hundred rows.
"""


def cells(plan: Plan) -> dict[str, int]:
    """Return the number of cells (pairs of an attack run and a target) of every experiment, by name.

    An attack run counts once in each experiment that uses it.
    """
    counted = Counter(dict.fromkeys(plan.spec.experiments, 0))
    for craft in plan.crafts.values():
        for name in craft.experiments:
            counted[name] += len(craft.targets)
    return dict(counted)


def totals(plan: Plan) -> dict[str, int]:
    """Return the totals of a complete run, by name: images, gradients, predictions, rows and bytes.

    A gradient is the gradient of one image on one model, including its forward pass. A prediction is one image on one
    model; clean images count too, and a search of the minimal RMSD counts with all its RMSDs. `bytes` is an estimate of
    the size of the rows on disk.
    """
    images = sum(len(shard.images) for shard in plan.shards)
    rows = sum(len(craft.targets) * len(craft.recipe.scored_points) for craft in plan.crafts.values()) * images
    searched = sum(
        len(craft.targets) * len(craft.recipe.budget.minimal.levels)
        for craft in plan.crafts.values()
        if craft.recipe.budget.minimal is not None
    )
    return {
        "images": images,
        "gradients": sum(craft.gradients for craft in plan.crafts.values()) * images,
        "predictions": rows + (searched + len(plan.spec.predicting)) * images,
        "rows": rows,
        "bytes": rows * _ROW_BYTES,
    }


def probes(plan: Plan) -> dict[str, dict[str, Any]]:
    """Return the size of every probe: its kind, and the numbers of its models, images, units and passes.

    A pass is one prediction, or, for the probe `gradient-cosine`, one gradient. If a probe names its images, only their
    number is used, because the images of the plan may have no ids yet.
    """
    images = sum(len(shard.images) for shard in plan.shards)
    wanted = {
        name: probe if probe.images == "all" else probe.model_copy(update={"images": min(_count(probe.images), images)})
        for name, probe in plan.spec.geometry.items()
    }
    geometry = GeometryPlan(plan.spec.model_copy(update={"geometry": wanted}), plan.digests, plan.shards)
    found = {}
    for name, probe in wanted.items():
        units = [unit for models in geometry.sets(name) for unit in geometry.units_of(name, models)]
        found[name] = {
            "probe": probe.probe,
            "models": len({model for unit in units for model in unit.models}),
            "images": len({one.image for unit in units for one in unit.shard.images}),
            "units": len(units),
            "passes": int(sum(unit.cost for unit in units)),
        }
    return found


def _count(images: int | Sequence[str]) -> int:
    return images if isinstance(images, int) else len(images)
