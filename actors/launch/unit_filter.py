"""The options `--only` and `--limit`: select the part of a plan that this launch runs.

All other units are left for another launch.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator, Mapping, Sequence

from study.errors import StudyError, names
from study.planning.plan import Finished, Plan
from study.spec.spec_file import SpecFile


def check(file: SpecFile, only: Sequence[str]) -> None:
    """Raise StudyError if `--only` names an experiment that the spec does not have."""
    for name in only:
        if name not in file.spec.experiments:
            raise StudyError(
                f"there is no experiment '{name}' in {file.document.name}",
                where=f"--only {name}",
                accepted=names(file.spec.experiments, name),
            )


def chosen(plan: Plan, done: Finished, only: Sequence[str], limit: int | None) -> Finished:
    """Return the targets that need no answer in this launch, by unit id.

    These are the targets in `done`, and all targets of units outside the chosen part. The part consists of the first
    `limit` unfinished units of the experiments `only` (empty: all experiments). If the whole plan is chosen, `done`
    itself is returned. If the budget of an attack run is matched to a reference, the plan lists the reference first. So
    no unit of the part waits for a unit outside the part.
    """
    if not only and limit is None:
        return done
    within = _OutsideDone(plan, done, only, None)
    if limit is None:
        return within
    first = frozenset(unit.id for unit in itertools.islice(plan.units(within), limit))
    return _OutsideDone(plan, done, only, first)


class _OutsideDone(Mapping[str, Collection[str]]):
    """The targets that need no answer in this launch, by unit id.

    They are computed at each access, because a plan may have millions of units.
    """

    def __init__(self, plan: Plan, done: Finished, only: Sequence[str], first: Collection[str] | None) -> None:
        self._plan = plan
        self._done = done
        self._first = first
        self._wanted = {
            craft.id: {
                target
                for name in craft.experiments
                if not only or name in only
                for target in plan.spec.targets(plan.spec.experiments[name], craft.sources)
            }
            for craft in plan.crafts.values()
        }

    def __getitem__(self, unit: str) -> Collection[str]:
        craft = self._plan.crafts[unit.rpartition(".")[0]]
        inside = self._wanted[craft.id] if self._first is None or unit in self._first else set()
        return {*self._done.get(unit, ()), *(set(craft.targets) - inside)}

    def __iter__(self) -> Iterator[str]:
        return iter(self._done)

    def __bool__(self) -> bool:
        # Units outside the part count as done. So this mapping is true even if no unit has rows.
        return True

    def __len__(self) -> int:
        return len(self._done)
