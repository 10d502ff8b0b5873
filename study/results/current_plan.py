"""The rows of the present plan: reports leave out rows that only an earlier version of the spec asked for."""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl

from study.planning.plan import Finished, Plan
from study.results.scanning import scan_cached
from study.storage import json_file
from study.storage.run_folder import RunFolder


@dataclass(frozen=True)
class _Planned:
    """The content of planned.json."""

    crafts: list[str]


def rows(run: str | RunFolder) -> pl.LazyFrame:
    """The rows of all crafts in the present plan; `study.results.scanning` has those of earlier plans too.

    Raises StudyError if there is no run, or its planned.json is damaged.
    """
    folder = run if isinstance(run, RunFolder) else RunFolder(run)
    crafts = _planned(folder)
    found = scan_cached(folder.path)
    return found if crafts is None else found.filter(pl.col("craft").is_in(sorted(crafts)))


def record(plan: Plan, finished: Finished, folder: RunFolder) -> int:
    """Record the crafts of the plan if the run has units of other crafts, and return the number of other crafts."""
    others = {unit.rpartition(".")[0] for unit in finished} - plan.crafts.keys()
    recorded = _planned(folder)
    if (others or recorded is not None) and recorded != plan.crafts.keys():
        folder.write_json(folder.planned, {"crafts": list(plan.crafts)})
    return len(others)


def _planned(folder: RunFolder) -> set[str] | None:
    """The crafts of the present plan; None if every row belongs to one of them."""
    try:
        found = json_file.read(
            folder.planned, _Planned, todo="remove it and launch the study again, which writes it again"
        )
    except FileNotFoundError:
        return None
    return set(found.crafts)
