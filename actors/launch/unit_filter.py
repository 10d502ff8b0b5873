"""A part of a plan: some experiments of it, or so many units, to be done now. The rest stays for another launch."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator, Mapping, Sequence

from study.errors import StudyError, names
from study.planning.plan import Finished, Plan
from study.spec.loading import SpecFile


def check(file: SpecFile, only: Sequence[str]) -> None:
    """Raises StudyError where the spec has no such experiment."""
    for name in only:
        if name not in file.spec.experiments:
            raise StudyError(
                f"there is no experiment '{name}' in {file.document.name}",
                where=f"--only {name}",
                accepted=names(file.spec.experiments, name),
            )


def chosen(plan: Plan, done: Finished, only: Sequence[str], limit: int | None) -> Finished:
    """`done`, and with it all that is not to be done now: what is not of the experiments `only` (none: all of them),
    and all but the first `limit` units that are left.

    A plan has references before what is matched to them: so the first units can be done without the others.
    """
    if not only and limit is None:
        return done
    within = _Closed(plan, done, only, None)
    if limit is None:
        return within
    first = frozenset(unit.id for unit in itertools.islice(plan.units(within), limit))
    return _Closed(plan, done, only, first)


class _Closed(Mapping[str, Collection[str]]):
    """Made anew at every look: there may be millions of units, and few of them are looked at twice."""

    def __init__(self, plan: Plan, done: Finished, only: Sequence[str], first: Collection[str] | None) -> None:
        self._plan = plan
        self._done = done
        self._first = first
        self._open = {
            craft.id: {
                target
                for name in craft.experiments
                if not only or name in only
                for target in plan.spec.targets(plan.spec.experiments[name])
            }
            for craft in plan.crafts.values()
        }

    def __getitem__(self, unit: str) -> Collection[str]:
        craft = self._plan.crafts[unit.rpartition(".")[0]]
        wanted = self._open[craft.id] if self._first is None or unit in self._first else set()
        return {*self._done.get(unit, ()), *(set(craft.targets) - wanted)}

    def __iter__(self) -> Iterator[str]:
        return iter(self._done)

    def __bool__(self) -> bool:
        # Also where nothing is done yet, much is closed.
        return True

    def __len__(self) -> int:
        return len(self._done)
