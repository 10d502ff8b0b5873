"""What a paper states of an attack, held against a recipe: where the two differ, in words."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from study.attacks.recipe import Attack


@dataclass(frozen=True)
class Point:
    """Where a planned cell's attack is scored. `dense` are those of its sources that are DenseNets."""

    recipe: Attack
    sources: tuple[str, ...]
    steps: int
    level: float | None
    dense: frozenset[str] = frozenset()


def differences(params: Mapping[str, Any], point: Point) -> list[str]:
    """Every stated parameter that is another one here, such as "epsilon 15 there, 16 here".

    What the paper does not state is not asked for. A parameter that no recipe has is a difference.
    """
    found = []
    for key, theirs in params.items():
        if key not in _HERE:
            found.append(f"{key} {theirs} there, which recipes have no key for")
        elif not _same(theirs, ours := _HERE[key](point)):
            found.append(f"{key} {_shown(theirs)} there, {_shown(ours)} here")
    return found


def _epsilon(point: Point) -> float | None:
    return point.level if point.recipe.budget.kind == "epsilon" else None


def _step_size(point: Point) -> float | None:
    recipe, epsilon = point.recipe, _epsilon(point)
    if recipe.step_size is not None or epsilon is None or not recipe.steps or recipe.step == "adam":
        return recipe.step_size
    # Without a size of its own a step is the budget divided by all steps, also at a checkpoint before the last.
    return epsilon / recipe.steps


def _sigma(point: Point) -> float | None:
    smoothing, start = point.recipe.smoothing, point.recipe.start
    if smoothing is not None:
        return smoothing.sigma
    return start.gaussian if start is not None else None


def _gamma(point: Point) -> object:
    """The one gamma of all sources: that of dense layers for a DenseNet, that of residual branches for the others."""
    skip = point.recipe.skip_gradient
    if skip is None:
        return None
    each = {skip.of(name)[name in point.dense] for name in point.sources}
    return each.pop() if len(each) == 1 else ", ".join(f"{one:g}" for one in sorted(each))


def _weights(point: Point) -> str:
    return "equal" if len(set(point.recipe.weights_of(point.sources))) <= 1 else "unequal"


_HERE: Mapping[str, Callable[[Point], object]] = {
    "epsilon": _epsilon,
    "steps": lambda point: point.steps,
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
"""By the papers' name of a parameter, its value here. Liu et al.'s lambda weighs a distance, which no recipe's loss has
but for their penalties."""


def _same(theirs: object, ours: object) -> bool:
    if isinstance(theirs, int | float) and isinstance(ours, int | float):
        return math.isclose(theirs, ours, rel_tol=1e-9)
    return theirs == ours


def _shown(value: object) -> str:
    if value is None:
        return "none"
    return f"{value:g}" if isinstance(value, int | float) else str(value)
