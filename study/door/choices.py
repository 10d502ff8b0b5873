"""Chooses one attack, goal, seed, number of steps and budget of a run, so that no rate mixes several of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

from study.errors import StudyError, names
from study.spec.schema import Spec

MEAN: Literal["mean"] = "mean"
"""The value of `seed` that asks for the mean over all seeds."""

_PLURALS = {
    "attack": "attacks",
    "sources": "sets of source models",
    "goal": "goals",
    "seed": "seeds",
    "steps": "numbers of steps",
    "budget": "budgets",
}


class Option(NamedTuple):
    """One attack run at one number of steps and one budget.

    `sources`: names of the source models, joined by `+`. `budget` is None if the attack has no budget.
    """

    attack: str
    sources: str
    goal: str
    seed: int
    steps: int
    budget: float | None


def options_of(spec: Spec, experiments: Sequence[str]) -> list[Option]:
    """Return all options of some experiments, each once, in the order of the spec."""
    found: dict[Option, None] = {}
    for name in experiments:
        one = spec.experiments[name]
        for sources in spec.source_sets(one):
            for goal in one.goal:
                for attack in one.attacks:
                    for seed in spec.seeds_of(one):
                        for steps, level in spec.attacks[attack].scored_points:
                            found[Option(attack, "+".join(sources), goal, seed, steps, level)] = None
    return list(found)


def chosen(
    options: Sequence[Option], asked: Mapping[str, object], *, of: str, call: str, mean: bool = False
) -> list[Option]:
    """Return the options (attack runs at one number of steps and one budget) that match `asked`.

    `asked`: the wanted value of each field. None: any value, but all options of the result must have the same value.
    For steps and budget, only options of the same attack must have the same value. If `mean` is True and the wanted
    seed is `MEAN`, the result has the options of all seeds.

    `of` (a name for the whole of the options) and `call` (the name of the called method) are for messages. Raises
    StudyError, which lists the possible choices, if no option matches or if several choices are left.
    """
    left = list(options)
    for field, value in asked.items():
        if value is None or (mean and field == "seed" and value == MEAN):
            continue
        fitting = [one for one in left if _same(getattr(one, field), value)]
        if not fitting:
            raise StudyError(
                f"{of} has no {field} {_shown(value)}" + _with(asked, field),
                where=f"{call}({field}=…)",
                accepted=names([_shown(one) for one in _values(left, field)], _shown(value)),
            )
        left = fitting
    open_fields = [field for field, value in asked.items() if value is None and _is_open(left, field)]
    if open_fields:
        each = {
            field: [*map(_shown, _values(left, field)), *([_shown(MEAN)] if mean and field == "seed" else [])]
            for field in open_fields
        }
        raise StudyError(
            f"{of} has several {' and several '.join(_PLURALS[field] for field in each)}; choose one of each",
            where=call,
            accepted="\n            ".join(f"{field}= {', '.join(values)}" for field, values in each.items()),
            todo=f"choose: {call}({', '.join(f'{field}={_shown(getattr(left[0], field))}' for field in each)}, …)",
        )
    return left


def _is_open(left: Sequence[Option], field: str) -> bool:
    """Return whether options differ in a field. For steps and budget: whether options of the same attack differ."""
    if field not in ("steps", "budget"):
        return len(_values(left, field)) > 1
    attacks = {one.attack for one in left}
    return any(len(_values([one for one in left if one.attack == name], field)) > 1 for name in attacks)


def _values(options: Sequence[Option], field: str) -> list[object]:
    """Return the different values of a field: numbers in ascending order, other values in the order of the options."""
    found = dict.fromkeys(getattr(one, field) for one in options)
    return sorted(found, key=lambda one: one if isinstance(one, int | float) else 0)


def _with(asked: Mapping[str, object], before: str) -> str:
    """Return text such as ` with attack='mi'`: the choices in `asked` before the field `before`; empty if none."""
    given = []
    for field, value in asked.items():
        if field == before:
            break
        if value is not None:
            given.append(f"{field}={_shown(value)}")
    return f" with {', '.join(given)}" if given else ""


def _same(one: object, value: object) -> bool:
    if isinstance(one, float) and isinstance(value, int | float):
        return math.isclose(one, value, rel_tol=1e-9)
    return one == value


def _shown(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else repr(value)
