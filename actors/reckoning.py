"""What a launch has to do, and what its rows depend on beside their columns."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence

from study.plan import Finished, Plan
from study.spec import Spec


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


def provenance(spec: Spec, hardware: Sequence[str]) -> dict[str, str]:
    """What rows depend on beside their columns, `hardware` among it; it stands in the metadata of every part."""
    import torch

    import study

    return {
        "study": spec.study,
        "version": study.__version__,
        "torch": str(torch.__version__),
        "hardware": "; ".join(hardware),
        "numerics": spec.numerics.model_dump_json(),
    }
