"""The lines of the report's charts: success rates of attacks whose recipes differ in one number."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import polars as pl

from study.spec.schema import Experiment, Spec

_MOST_SETS = 8
"""A figure draws one line per source set only up to this number of source sets."""

Points = Mapping[str, Sequence[tuple[float, float, float, float]]]
"""The points of each line, by line: x, success rate, and its interval (0..1; NaN for a mean of several cells)."""

_Members = Mapping[str, tuple[str, float | None]]
"""The line and the x of each attack, by attack. x is None if each point of the attack has its own x."""


def curves(cells: pl.DataFrame, spec: Spec, experiment: Experiment) -> Iterator[tuple[str, Mapping[str, Points]]]:
    """Yield the x axis of each chart (`steps`, `gradients`, `budget`, or the key of a number), and its lines by target.

    A line joins attacks whose recipes differ in this number only. Lines show means over source sets, of black-box cells
    if there are any, otherwise of all cells. `cells`: the result of `experiments.averaged`.
    """
    used = cells.filter(relation="black") if transferred(cells) else cells
    attacks = list(dict.fromkeys(experiment.attacks))
    stepped = [name for name in attacks if spec.attacks[name].checkpoints]
    if stepped:
        yield "steps", _lines(used, {name: (name, None) for name in stepped}, "steps", spec)
        if len(attacks) > 1:
            yield "gradients", _lines(used, {name: (name, None) for name in attacks}, "gradients", spec)
    for along, members in _families(spec, attacks).items():
        yield along, _lines(used, members, "level" if along == "budget" else None, spec)


def transferred(cells: pl.DataFrame) -> bool:
    """Whether any cell is black-box. If the only targets of an experiment are its sources, no cell is."""
    return bool((cells["relation"] == "black").any())


def _families(spec: Spec, attacks: Sequence[str]) -> Mapping[str, _Members]:
    """The attacks whose recipes differ in one number only, by the key of this number."""
    dumps = {
        name: {key: one for key, one in spec.attacks[name].plain().items() if key not in ("checkpoints", "made")}
        for name in attacks
    }
    flat = {name: dict(_flat(dump)) for name, dump in dumps.items()}
    families: dict[str, dict[str, tuple[str, float | None]]] = {}
    numbers = dict.fromkeys(key for one in flat.values() for key, value in one.items() if _is_number(value))
    for key in ["budget", *(key for key in numbers if not key.startswith("budget") and key != "step_size")]:
        groups: dict[str, list[str]] = {}
        for name, one in flat.items():
            if spec.attacks[name].budget.minimal is None and (key == "budget" or _is_number(one.get(key))):
                groups.setdefault(_rest(one, key, spec.attacks[name].budget.kind), []).append(name)
        for group in groups.values():
            levels = spec.attacks[group[0]].budget.levels
            if key == "budget":
                drawn = len(levels) > 1 if len(group) == 1 else levels[0] is not None
            else:
                # A curve needs three values. Two values are shown in tables only.
                drawn = len(group) > 2
            if drawn:
                members = {name: (group[0], None if key == "budget" else float(flat[name][key])) for name in group}
                families.setdefault(key, {}).update(members)
    return families


def _rest(flat: Mapping[str, Any], key: str, kind: str) -> str:
    """The recipe without the number that varies."""
    hidden = ("budget", "step_size") if key == "budget" else (key,)
    rest = {one: value for one, value in flat.items() if not one.startswith(hidden)}
    return json.dumps([rest, kind], sort_keys=True)


def _flat(dump: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in dump.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _lines(cells: pl.DataFrame, members: _Members, column: str | None, spec: Spec) -> Mapping[str, Points]:
    """The points of every line, by target.

    x is the column `column` of the cells; if `column` is None, x is from `members`.
    If there is only one line and at most eight source sets, it is split into one line per source set.
    """
    names = list(dict.fromkeys(line for line, _ in members.values()))
    sets = list(dict.fromkeys(cells["sources"]))
    by_source = len(names) == 1 and 1 < len(sets) <= _MOST_SETS
    rates: dict[str, dict[str, dict[float, list[tuple[float, float, float]]]]] = {}
    for cell in cells.filter(pl.col("attack").is_in(list(members))).iter_rows(named=True):
        line, place = members[cell["attack"]]
        steps, level = spec.attacks[cell["attack"]].scored_points[-1]
        # If x is another number, an attack with several steps or budgets is shown at its last point.
        if (column != "level" and cell["level"] != level) or (column in (None, "level") and cell["steps"] != steps):
            continue
        x = place if column is None else cell[column]
        if x is not None:
            points = rates.setdefault(cell["target"], {}).setdefault(cell["sources"] if by_source else line, {})
            points.setdefault(float(x), []).append((cell["success"], cell["low"], cell["high"]))
    return {
        target: {
            line: [(x, *mean(there)) for x, there in sorted(rates[target][line].items())]
            for line in (sets if by_source else names)
            if line in rates[target]
        }
        for target in spec.models
        if target in rates
    }


def mean(rates: Sequence[tuple[float, float, float]]) -> tuple[float, float, float]:
    """The mean rate and its interval: unchanged for a single rate, NaN for several."""
    if len(rates) == 1:
        return rates[0]
    return sum(rate for rate, *_ in rates) / len(rates), float("nan"), float("nan")
