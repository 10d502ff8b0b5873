"""Ranks the attacks of an experiment from the strongest to the weakest, with intervals and paired tests over images."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import polars as pl
from numpy.typing import NDArray

from study.analysis.bootstrap import interval_of_mean
from study.analysis.experiments import averaged, of_experiment, one_goal, with_level
from study.analysis.experiments import cells as cells_of
from study.analysis.intervals import interval_of_rate
from study.analysis.rates import hits
from study.analysis.significance import difference, holm
from study.spec.schema import Spec

_SCHEMA: Mapping[str, pl.DataType] = {
    "attack": pl.String(),
    "steps": pl.Int64(),
    "level": pl.Float64(),
    "relation": pl.String(),
    "cells": pl.UInt32(),
    "images": pl.UInt32(),
    "success": pl.Float64(),
    "low": pl.Float64(),
    "high": pl.Float64(),
    "behind": pl.Float64(),
    "p": pl.Float64(),
}

_Values = Mapping[str, float]
"""The share of successes among the answers to an image, by image id."""


def ranking(
    rows: pl.LazyFrame, spec: Spec, experiment: str, *, goal: str | None = None, cells: pl.DataFrame | None = None
) -> pl.DataFrame:
    """Return the attacks of an experiment, the strongest first.

    Each attack is judged after its last step and, if it has several budgets, at the last budget. `cells`: the result of
    `experiments.averaged`; None to compute it. Raises StudyError if the experiment has two goals and `goal` is None.
    Columns:

    - `attack`, `steps`, `level` (the budget);
    - `relation`: the relation of target and sources in the cells that count. It is `black` if there are black-box
      cells; otherwise it is `grey` if there are grey-box cells, and `white` if not;
    - `cells`: the number of cells that count (a cell is a source set with a target); `images`: the number of images;
    - `success`: the mean over cells and seeds (0..1);
    - `low`, `high`: the 95 % interval of `success`, see `interval`. Each image is one sample: the mean over its cells
      and seeds. Null if the cells have different numbers of images or seeds, as in an incomplete run;
    - `behind`: the success of the first attack minus the success of this attack, on the images that both attacks have;
      0 for the first attack;
    - `p`: the p-value of this difference over images, by McNemar's test or by sign flips. Holm's correction includes
      all comparisons of the table. Null for the first attack.
    """
    one = spec.experiments[experiment]
    wanted = one_goal(one, experiment, goal)
    known = averaged(of_experiment(cells_of(rows, spec), spec, experiment)) if cells is None else cells
    known = known.filter(pl.col("goal") == wanted, pl.col("images") > 0)
    kind = next((kind for kind in ("black", "grey", "white") if (known["relation"] == kind).any()), None)
    if kind is None:
        return pl.DataFrame(schema=dict(_SCHEMA))
    known = known.filter(relation=kind)
    points = {name: spec.attacks[name].scored_points[-1] for name in dict.fromkeys(one.attacks)}
    at_end = pl.any_horizontal(
        (pl.col("attack") == name) & (pl.col("steps") == steps) & pl.col("level").eq_missing(pl.lit(level, pl.Float64))
        for name, (steps, level) in points.items()
    )
    known = known.filter(at_end)
    own = of_experiment(with_level(rows, spec), spec, experiment, wanted)
    values = _by_image(own.filter(pl.col("relation") == kind, at_end))
    found = []
    for (attack,), mine in known.partition_by("attack", as_dict=True).items():
        name = str(attack)
        steps, level = points[name]
        # If a cell lacks images, the mean over images differs from the mean over cells, and has no valid interval.
        whole = mine["images"].n_unique() == 1 and mine["seeds"].n_unique() == 1
        ends = interval(_array(values.get(name, {}))) if whole else (None, None)
        counts = (mine.height, mine["images"].max())
        found.append((name, steps, level, kind, *counts, mine["success"].mean(), *ends, None, None))
    table = pl.DataFrame(found, schema=dict(_SCHEMA), orient="row").sort(
        pl.col("success"),
        pl.col("attack").replace_strict({name: place for place, name in enumerate(points)}, return_dtype=pl.Int64),
        descending=[True, False],
    )
    return _compared(table, values)


def interval(values: NDArray[np.float64]) -> tuple[float, float]:
    """Return the 95 % bootstrap interval of the mean of `values` (N,), which has one value per image.

    If all values are equal, return Wilson's interval instead. Every bootstrap draw would then have the same mean, so
    that the bootstrap interval would have no width, even for four images.
    """
    if len(values) and (values == values[0]).all():
        return interval_of_rate(float(values.sum()), len(values))
    return interval_of_mean(values)


def _by_image(rows: pl.LazyFrame) -> Mapping[str, _Values]:
    """Return, by attack, the share of successes among the answers to each image. Images are sorted by id."""
    counted = (
        rows.with_columns(hits(rows).alias("hit"))
        .filter(pl.col("hit").is_not_null())
        .group_by("attack", "image")
        .agg(pl.col("hit").sum().cast(pl.Float64).alias("hits"), pl.len().alias("answers"))
        .sort("attack", "image")
        .collect(engine="streaming")
    )
    values: dict[str, dict[str, float]] = {}
    for attack, image, succeeded, answers in counted.iter_rows():
        values.setdefault(attack, {})[image] = succeeded / answers
    return values


def _array(values: _Values) -> NDArray[np.float64]:
    return np.array([values[image] for image in sorted(values)])


def _compared(table: pl.DataFrame, values: Mapping[str, _Values]) -> pl.DataFrame:
    """Return the table with the columns `behind` (difference from the first attack) and `p` (p-value of `behind`)."""
    behind: list[float | None] = [0.0] * min(1, table.height)
    chances: list[float] = []
    first = values.get(table["attack"][0], {}) if table.height else {}
    for attack in table["attack"].to_list()[1:]:
        mine = values.get(attack, {})
        both = np.array([first[image] - mine[image] for image in sorted(first.keys() & mine.keys())])
        behind.append(float(both.mean()) if len(both) else None)
        chances.append(difference(both) if len(both) else 1.0)
    tested = [None, *holm(chances)][: table.height]
    return table.with_columns(pl.Series("behind", behind, dtype=pl.Float64), pl.Series("p", tested, dtype=pl.Float64))
