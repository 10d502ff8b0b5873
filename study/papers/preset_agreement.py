"""Finds the differences between the recipe of our attack and the parameters that a paper states for its attack."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from study.attacks.recipe import Attack


@dataclass(frozen=True)
class PlannedPoint:
    """One point (number of steps and budget) of an attack on a source set.

    `level` is the budget; None if the attack has no fixed budget. `dense` are those sources that are DenseNets.
    """

    recipe: Attack
    sources: tuple[str, ...]
    steps: int
    level: float | None
    dense: frozenset[str] = frozenset()


def differences(params: Mapping[str, Any], point: PlannedPoint) -> list[str]:
    """Return a text for every parameter whose value differs, such as "epsilon 15 in the paper, 16 here".

    `params`: the parameters that the paper states, by name. Only these parameters are compared. A parameter that
    recipes do not have counts as a difference.
    """
    found = []
    for key, theirs in params.items():
        if key not in _HERE:
            found.append(f"{key} {theirs} in the paper, but recipes have no such parameter")
        elif not _same(theirs, ours := _HERE[key](point)):
            found.append(f"{key} {_shown(theirs)} in the paper, {_shown(ours)} here")
    return found


def _epsilon(point: PlannedPoint) -> float | None:
    return point.level if point.recipe.budget.kind == "epsilon" else None


def _step_size(point: PlannedPoint) -> float | None:
    recipe, epsilon = point.recipe, _epsilon(point)
    if recipe.step_size is not None or epsilon is None or not recipe.steps or recipe.step == "adam":
        return recipe.step_size
    # The default step size is the budget divided by the number of all steps, also for a point at an earlier checkpoint.
    return epsilon / recipe.steps


def _sigma(point: PlannedPoint) -> float | None:
    smoothing, start = point.recipe.smoothing, point.recipe.start
    if smoothing is not None:
        return smoothing.sigma
    return start.parameters.get("sigma") if start is not None else None


def _gamma(point: PlannedPoint) -> object:
    """Return the gamma of the skip gradient for the sources; a text with all values if sources have different gammas.

    DenseNets have a separate gamma.
    """
    skip = point.recipe.skip_gradient
    if skip is None:
        return None
    each = {skip.of(name)[name in point.dense] for name in point.sources}
    return each.pop() if len(each) == 1 else ", ".join(f"{one:g}" for one in sorted(each))


def _weights(point: PlannedPoint) -> str:
    return "equal" if len(set(point.recipe.weights_of(point.sources))) <= 1 else "unequal"


_HERE: Mapping[str, Callable[[PlannedPoint], object]] = {
    "epsilon": _epsilon,
    # Some attacks first make steps that only accumulate momentum. Papers do not count these steps.
    "steps": lambda point: point.steps - point.recipe.assembly.step.preparing_steps,
    "step_size": _step_size,
    "learning_rate": lambda point: point.recipe.learning_rate,
    "optimizer": lambda point: point.recipe.step,
    "lambda": lambda point: 0 if point.recipe.penalty is None else "a penalty",
    "ensemble_weights": _weights,
    "m": lambda point: point.recipe.smoothing.copies if point.recipe.smoothing else None,
    "sigma": _sigma,
    "mu": lambda point: point.recipe.momentum,
    "gamma": _gamma,
}
"""Functions that return the value of a parameter at a point of our attack, by the papers' name of the parameter.

The lambda of Liu et al. is the weight of a distance in the loss. In a recipe, a penalty corresponds to it."""


def _same(theirs: object, ours: object) -> bool:
    if isinstance(theirs, int | float) and isinstance(ours, int | float):
        return math.isclose(theirs, ours, rel_tol=1e-9)
    return theirs == ours


def _shown(value: object) -> str:
    if value is None:
        return "none"
    return f"{value:g}" if isinstance(value, int | float) else str(value)
