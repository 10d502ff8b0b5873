"""The rows of the present plan: what reports read of a run whose spec has changed since rows were written."""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl

from study.planning.plan import Finished, Plan
from study.results import part_cache
from study.storage import json_file
from study.storage.run_folder import RunFolder


@dataclass(frozen=True)
class _Planned:
    """What planned.json holds."""

    crafts: list[str]


def rows(run: str | RunFolder) -> pl.LazyFrame:
    """All rows of crafts that the spec asks for as it stands; `store.scan` has those of earlier specs too.

    Raises StudyError where there is no run, or the list of crafts is damaged.
    """
    folder = run if isinstance(run, RunFolder) else RunFolder(run)
    crafts = _planned(folder)
    found = part_cache.scan(folder.path)
    return found if crafts is None else found.filter(pl.col("craft").is_in(sorted(crafts)))


def record(plan: Plan, finished: Finished, folder: RunFolder) -> int:
    """Write down which crafts are planned, where there are units of others; returns of how many others."""
    others = {unit.rpartition(".")[0] for unit in finished} - plan.crafts.keys()
    there = _planned(folder)
    if (others or there is not None) and there != plan.crafts.keys():
        folder.write_json(folder.planned, {"crafts": list(plan.crafts)})
    return len(others)


def _planned(folder: RunFolder) -> set[str] | None:
    """The crafts of the present plan; None where every row belongs to one."""
    try:
        found = json_file.read(
            folder.planned, _Planned, todo="remove it and launch the study again: it is written anew"
        )
    except FileNotFoundError:
        return None
    return set(found.crafts)
