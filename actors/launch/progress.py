"""What a launch has to do, and what its rows depend on beside their columns."""

from __future__ import annotations

from collections.abc import Collection, Container, Mapping

from study.planning.plan import Finished, Plan
from study.reproducibility import float_environment
from study.reproducibility.float_environment import Arithmetic
from study.spec.schema import Spec


def steps(
    plan: Plan, finished: Finished, kept: Container[str] | None = None
) -> tuple[Mapping[str, int], Mapping[str, int], int]:
    """Units in all and units done, by experiment; and how many are left.

    Units whose rows are there and whose images are not `kept` are left, where the spec keeps images.
    """
    totals: dict[str, int] = {}
    for craft in plan.crafts.values():
        for name in craft.experiments:
            totals[name] = totals.get(name, 0) + len(plan.shards)
    done, left = dict(totals), 0
    for unit in plan.units(finished, kept=kept):
        left += 1
        for name in unit.craft.experiments:
            done[name] -= 1
    return totals, done, left


def provenance(spec: Spec, workers: Collection[Arithmetic]) -> dict[str, str]:
    """What rows depend on beside their columns, and what `workers` compute with; it stands in every part's metadata."""
    import torch

    import study

    return {
        "study": spec.study,
        "version": study.__version__,
        "torch": str(torch.__version__),
        "hardware": "; ".join(sorted({one.processor for one in workers})),
        "arithmetic": float_environment.text(workers),
        "numerics": spec.numerics.model_dump_json(),
    }
