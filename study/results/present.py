"""The rows of the present plan: what reports read of a run whose spec has changed since rows were written."""

from __future__ import annotations

import json

import polars as pl

from study.errors import StudyError
from study.plan import Finished, Plan
from study.results import store
from study.run_folder import RunFolder


def rows(run: str | RunFolder) -> pl.LazyFrame:
    """All rows of crafts that the spec asks for as it stands; `store.scan` has those of earlier specs too.

    Raises StudyError where there is no run, or the list of crafts is damaged.
    """
    folder = run if isinstance(run, RunFolder) else RunFolder(run)
    crafts = _planned(folder)
    found = store.scan(folder.path)
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
    if not folder.planned.is_file():
        return None
    try:
        return set(map(str, json.loads(folder.planned.read_text())["crafts"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StudyError(
            f"{folder.planned} is damaged: {str(error).splitlines()[0]}",
            todo="remove it and launch the study again: it is written anew",
        ) from None
