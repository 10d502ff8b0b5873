"""Counts all units and the finished units of a plan, by experiment."""

from __future__ import annotations

from collections.abc import Container

from actors.execution.driver import Progress
from study.planning.plan import Finished, Plan


def unit_progress(plan: Plan, finished: Finished, kept: Container[str] | None = None) -> Progress:
    """Return the numbers of all units and of finished units by experiment, and the number of units left.

    `finished`: the targets that have rows, by unit id. `kept`: ids of the units with kept images. If the spec keeps
    images, a unit that has all rows but is not in `kept` counts as unfinished. If `kept` is None, rows alone decide.
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
    return Progress(totals, done, left)
