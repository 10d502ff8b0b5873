"""Compares attacks at equal cost: the mean black-box success of each attack within a limited number of gradients."""

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
    """Return the mean black-box success of each attack of an experiment, at each cost in the experiment's `at-cost`.

    `cells`: the result of `experiments.averaged`. Columns:

    - `goal`; `attack`, in the order of the spec;
    - `cost`: the allowed number of gradients, for one image and per source model;
    - `steps`: the largest number of steps within this cost, among the attack's checkpoints;
    - `gradients`: the cost of these steps;
    - `success`: the mean over black-box cells (0..1); `cells`: the number of these cells.

    If a cost is too small for the first checkpoint of an attack, the attack has no row for this cost.
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
