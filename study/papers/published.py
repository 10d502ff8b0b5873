"""Reads the published tables of papers as a typed frame. Numbers are as the papers print them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import polars as pl

from study.errors import StudyError, names
from study.papers import registry

SCHEMA = pl.Schema(
    {
        "row": pl.Int64(),
        "paper": pl.String(),
        "table": pl.String(),
        "kind": pl.String(),
        "cited": pl.String(),
        "attack": pl.String(),
        "goal": pl.String(),
        "sources": pl.String(),
        "target": pl.String(),
        "metric": pl.String(),
        "printed": pl.String(),
        "value": pl.Float64(),
        "std": pl.Float64(),
        "rmsd": pl.Float64(),
        "params": pl.String(),
        "note": pl.String(),
    }
)
"""The columns of published rows.

`row` is the index of the row in the paper's file, from 0. `kind` is the column `experiment` of the file. `cited` names
the other work that a number is quoted from; null for the paper's own numbers. `value` is the number, and `printed` the
number as text. Empty fields of the file are null, but an empty `sources` is an empty text."""

METRICS = (
    *(f"top{top}-{kind}" for kind in ("accuracy", "match", "success") for top in (1, 5)),
    "same-mistake",
    "cosine",
)

_CITED = "-cited-"
"""The text in the column `experiment` that marks numbers quoted from other papers (tables 8 and 9 of sgm2020)."""


def load(paper: str | None = None) -> pl.DataFrame:
    """Return the numbers of `paper`, or of all papers, in the order of the files, with the columns of SCHEMA.

    Raises StudyError for an unknown paper, and for a missing or damaged file.
    """
    if paper is not None:
        check(paper)
    wanted = registry.PAPERS if paper is None else (paper,)
    return pl.DataFrame([line for one in wanted for line in _typed(one)], schema=SCHEMA)


def check(paper: str) -> None:
    """Raise StudyError, with the nearest names, if there is no paper named `paper`."""
    if paper not in registry.PAPERS:
        raise StudyError(f"there is no paper named '{paper}'", accepted=names(registry.PAPERS, paper))


def lines(published: pl.DataFrame) -> list[dict[str, str]]:
    """Return typed rows as lines of the papers' files: text by column. This is the inverse of `load`."""
    found = []
    for row in published.iter_rows(named=True):
        shown = {key: "" if value is None else str(value) for key, value in row.items()}
        two = {key: "" if row[key] is None else f"{row[key]:.2f}" for key in ("std", "rmsd")}
        line = {**shown, **two, "experiment": shown["kind"], "value": shown["printed"]}
        found.append({column: line[column] for column in registry.COLUMNS})
    return found


def _typed(paper: str) -> Iterable[dict[str, Any]]:
    for index, line in enumerate(registry.rows(paper)):
        where = f"{registry.FOLDER / paper}.csv, line {index + 2}"
        try:
            numbers = {key: float(line[key]) if line[key] else None for key in ("value", "std", "rmsd")}
            params = json.loads(line["params"] or "{}")
        except ValueError as error:
            raise StudyError(f"a published row cannot be read: {error}", where=where) from None
        if line["metric"] not in METRICS or numbers["value"] is None or not isinstance(params, dict):
            raise StudyError(
                "a published row has no number, an unknown metric, or no JSON object in `params`", where=where
            )
        yield {
            **{key: line[key] or None for key in ("attack", "goal", "target", "metric", "params", "note")},
            **numbers,
            "row": index,
            "paper": paper,
            "table": line["table"],
            "kind": line["experiment"],
            "cited": line["experiment"].partition(_CITED)[2] or None,
            "sources": line["sources"],
            "printed": line["value"],
        }
