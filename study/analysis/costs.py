"""Success at equal cost: the mean black-box success of every attack with limited numbers of gradients."""

from __future__ import annotations

from collections.abc import Mapping

import polars as pl

from study.spec.schema import Spec

_SCHEMA: Mapping[str, pl.DataType] = {
    "goal": pl.String(),
    "attack": pl.String(),
    "cost": pl.Int64(),
    "steps": pl.Int64(),
    "gradients": pl.Float64(),
    "success": pl.Float64(),
    "cells": pl.UInt32(),
}


def at_cost(cells: pl.DataFrame, spec: Spec, experiment: str) -> pl.DataFrame:
    """The mean black-box success of each attack of an experiment with `at-cost`, at each cost of the experiment.

    `cells`: the result of `experiments.averaged`. Columns: `goal`; `attack`, in the order of the spec; `cost`, the
    allowed number of gradients of one image per source model; `steps`, the largest number of steps within this cost;
    `gradients`, the cost of these steps; `success`, the mean over black-box cells (0..1); `cells`, the number of these
    cells. An attack has no row for a cost that is too small for one step.
    """
    one = spec.experiments[experiment]
    black = cells.filter(pl.col("relation") == "black", pl.col("images") > 0)
    sources = next(iter(len(each) for each in spec.source_sets(one)), 1)
    found = []
    for goal in dict.fromkeys(one.goal):
        for attack in dict.fromkeys(one.attacks):
            recipe = spec.attacks[attack]
            taken = {steps: recipe.gradients(steps, sources) / sources for steps, _ in recipe.scored_points}
            for cost in one.at_cost.gradients if one.at_cost else ():
                steps = max((steps for steps, gradients in taken.items() if gradients <= cost), default=0)
                there = black.filter(goal=goal, attack=attack, steps=steps)
                if there.height:
                    mean = there["success"].mean()
                    found.append((goal, attack, cost, steps, taken[steps], mean, there.height))
    return pl.DataFrame(found, schema=dict(_SCHEMA), orient="row")
