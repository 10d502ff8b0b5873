"""Differences between the parameters that a paper states for an attack and a recipe."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from study.attacks.recipe import Attack


@dataclass(frozen=True)
class PlannedPoint:
    """One (steps, budget) of a planned cell's attack. `dense` are its sources that are DenseNets."""

    recipe: Attack
    sources: tuple[str, ...]
    steps: int
    level: float | None
    dense: frozenset[str] = frozenset()


def differences(params: Mapping[str, Any], point: PlannedPoint) -> list[str]:
    """Return a text for every stated parameter with another value here, such as "epsilon 15 there, 16 here".

    Parameters that the paper does not state are ignored. A parameter that recipes do not have is a difference.
    """
    found = []
    for key, theirs in params.items():
        if key not in _HERE:
            found.append(f"{key} {theirs} there, which recipes do not have")
        elif not _same(theirs, ours := _HERE[key](point)):
            found.append(f"{key} {_shown(theirs)} there, {_shown(ours)} here")
    return found


def _epsilon(point: PlannedPoint) -> float | None:
    return point.level if point.recipe.budget.kind == "epsilon" else None


def _step_size(point: PlannedPoint) -> float | None:
    recipe, epsilon = point.recipe, _epsilon(point)
    if recipe.step_size is not None or epsilon is None or not recipe.steps or recipe.step == "adam":
        return recipe.step_size
    # The default step size is the budget divided by the number of all steps, also at an earlier checkpoint.
    return epsilon / recipe.steps


def _sigma(point: PlannedPoint) -> float | None:
    smoothing, start = point.recipe.smoothing, point.recipe.start
    if smoothing is not None:
        return smoothing.sigma
    return start.parameters.get("sigma") if start is not None else None


def _gamma(point: PlannedPoint) -> object:
    """The gamma of all sources, or a list of them: of dense layers for DenseNets, else of residual branches."""
    skip = point.recipe.skip_gradient
    if skip is None:
        return None
    each = {skip.of(name)[name in point.dense] for name in point.sources}
    return each.pop() if len(each) == 1 else ", ".join(f"{one:g}" for one in sorted(each))


def _weights(point: PlannedPoint) -> str:
    return "equal" if len(set(point.recipe.weights_of(point.sources))) <= 1 else "unequal"


_HERE: Mapping[str, Callable[[PlannedPoint], object]] = {
    "epsilon": _epsilon,
    # Steps that only accumulate momentum before the attack begins do not count in papers.
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
"""The value of a parameter here, by the papers' name of it. The lambda of Liu et al. weighs a distance in the loss,
which recipes have only as a penalty."""


def _same(theirs: object, ours: object) -> bool:
    if isinstance(theirs, int | float) and isinstance(ours, int | float):
        return math.isclose(theirs, ours, rel_tol=1e-9)
    return theirs == ours


def _shown(value: object) -> str:
    if value is None:
        return "none"
    return f"{value:g}" if isinstance(value, int | float) else str(value)
