"""Computes success rates over a varying parameter, for plots, and finds the best attack within a gradient limit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import polars as pl

from study.analysis.experiments import with_level
from study.analysis.rates import Among, success_rates
from study.attacks.recipe import Attack
from study.errors import StudyError, names
from study.reproducibility.hashing import digest
from study.spec.schema import Spec

_KEYS = ("sources", "goal", "target")
_ROW_COLUMNS = ("steps", "budget", "gradients")


def sweep(
    rows: pl.LazyFrame,
    spec: Spec,
    along: str,
    *,
    top: int = 1,
    by: Sequence[str] = _KEYS,
    among: Among = "all",
    confidence: float = 0.95,
) -> pl.DataFrame:
    """Return success rates over the values of a parameter, such as the number of steps or the budget.

    `along`: the parameter. It is `steps` (checkpoints), `budget`, `gradients`, or the key of a numeric parameter of
    recipes, such as `skip_gradient.gamma`, `budget.epsilon`, `smoothing.sigma` or `momentum`.

    The result is ready for a plot with several lines. A line has the attacks whose recipes differ only in the
    parameter, with these exceptions:

    - If the parameter is a budget, the step sizes may also differ.
    - If the parameter is not a budget, each budget (`level`) has its own line.
    - If the parameter is `steps` or `gradients`, the checkpoints may also differ. A line has all checkpoints of its
      attacks.
    - If the parameter is neither `steps` nor `gradients`, each number of steps has its own line.

    Columns: the keys `by`; `line` (name of the line: its first attack in the order of the spec); `attack`; `steps` and
    `level` if they separate lines; `x` (`float64`, the value of the parameter: pixel values or a number); then the
    columns of `success_rates`. Rows are sorted by keys, line and x. Attacks without the parameter are left out. Raises
    StudyError if no recipe has the parameter.
    """
    lines, values = _lines(spec, along)
    points = [name for name in ("steps", "level") if name != along and not (name == "level" and _is_budget(along))]
    if along in {"gradients", "steps"}:
        points = ["level"]
    chosen = with_level(rows.filter(pl.col("attack").is_in(list(lines))), spec)
    if along in {"steps", "gradients"}:
        x = pl.col(along).cast(pl.Float64)
    elif _is_budget(along):
        x = pl.col("budget")
    else:
        x = pl.col("attack").replace_strict(values, return_dtype=pl.Float64)
    keys = (*by, "attack", *points, "x")
    cells = success_rates(chosen.with_columns(x.alias("x")), top=top, by=keys, among=among, confidence=confidence)
    named = cells.with_columns(pl.col("attack").replace_strict(lines, return_dtype=pl.String).alias("line"))
    first = [*by, "line", "attack", *points, "x"]
    return named.select(*first, pl.exclude(first)).sort(*by, "line", *points, "x", "attack")


def best_within(
    rows: pl.LazyFrame,
    spec: Spec,
    gradients: int,
    *,
    top: int = 1,
    by: Sequence[str] = _KEYS,
    among: Among = "all",
    confidence: float = 0.95,
) -> pl.DataFrame:
    """Return the attack with the highest success rate among those that need at most `gradients` gradients per image.

    Each checkpoint and budget of an attack is compared separately. The result has one row for each combination of
    values of the keys `by`. Columns:

    - the keys;
    - `attack`, `steps`; `level`: the budget; null if the attack searches its budget for each target;
    - `gradients` (`int32`): the number of gradients of one image, of all sources together;
    - the columns of `success_rates`.

    If several attacks have the same rate, the order is: fewer gradients, name of the attack, fewer steps, smaller
    budget. To compare attacks at one budget only, filter `rows` to this budget first. If every attack needs more than
    `gradients`, there is no row. Raises StudyError if `gradients` is negative.
    """
    if gradients < 0:
        raise StudyError(f"the number of gradients cannot be {gradients}", accepted="0 or more")
    affordable = with_level(rows.filter(pl.col("gradients") <= gradients), spec)
    point = ("attack", "steps", "level", "gradients")
    cells = success_rates(affordable, top=top, by=(*by, *point), among=among, confidence=confidence)
    ranked = cells.filter(pl.col("images") > 0).sort(
        "success", "gradients", "attack", "steps", "level", descending=[True, False, False, False, False]
    )
    return ranked.unique(by, keep="first", maintain_order=True).sort(by) if by else ranked.head(1)


def _is_budget(along: str) -> bool:
    return along == "budget" or along.startswith("budget.")


def _lines(spec: Spec, along: str) -> tuple[dict[str, str], dict[str, float]]:
    """Return the line of each attack, and the attack's value of the parameter `along`, both by attack.

    A line is named after its first attack. The value is 0 if `along` is a column of rows, or names a budget that is not
    a single number. The values of the parameter then come from the rows.
    """
    lines: dict[str, str] = {}
    values: dict[str, float] = {}
    families: dict[str, str] = {}
    for name, recipe in spec.attacks.items():
        value = None if along in _ROW_COLUMNS else recipe_number(recipe, along)
        if along in _ROW_COLUMNS or value is not None:
            lines[name] = families.setdefault(digest(_rest(recipe, along)), name)
            values[name] = value if isinstance(value, int | float) else 0.0
    if not lines:
        known = sorted({key for one in spec.attacks.values() for key in _keys(one)})
        raise StudyError(f"no attack has a numeric parameter '{along}'", accepted=names([*_ROW_COLUMNS, *known], along))
    return lines, values


def recipe_number(recipe: Attack, along: str) -> Any:
    """Return the value of a recipe's key, such as `skip_gradient.gamma`, if it is a number; else None.

    For a budget, the value may also be a list or a range of numbers.
    """
    value: Any = recipe.plain()
    for key in along.split("."):
        value = value.get(key) if isinstance(value, dict) else None
    if isinstance(value, bool | str):
        return None
    # Also return a budget that is a list or a range of numbers.
    return value if isinstance(value, int | float) or _is_budget(along) else None


def _keys(recipe: Attack) -> list[str]:
    """Return every key of the recipe whose value is a number. A nested key is written as `skip_gradient.gamma`."""
    dump = recipe.plain()
    nested = [f"{key}.{inner}" for key, value in dump.items() if isinstance(value, dict) for inner in value]
    return [key for key in (*dump, *nested) if recipe_number(recipe, key) is not None]


def _rest(recipe: Attack, along: str) -> dict[str, Any]:
    """Return the content of the recipe without the parameters that may differ between the attacks of one line."""
    dump = recipe.plain()
    if _is_budget(along):
        kind = recipe.budget.kind
        return {**dump, "budget": kind, "step_size": None}
    if along in {"steps", "gradients"}:
        return {**dump, "steps": None, "checkpoints": None}
    inside, _, key = along.rpartition(".")
    if inside:
        return {**dump, inside: {**dump[inside], key: None}}
    return {**dump, key: None}
