"""Computes the lines of the report's charts: success rates over a number in which the recipes of attacks differ."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import polars as pl

from study.spec.schema import Experiment, Spec

_MOST_SETS = 8
"""The largest number of source sets for which a figure draws a line for each source set."""

Points = Mapping[str, Sequence[tuple[float, float, float, float]]]
"""The points of each line, by name of the line. A point is x, the success rate, and the two ends of its interval.

Rates are 0..1. The ends are NaN if the rate is a mean of several cells."""

_Members = Mapping[str, tuple[str, float | None]]
"""The name of the line and the x of each attack, by attack. x is None if it is in a column of the cells."""


def curves(cells: pl.DataFrame, spec: Spec, experiment: Experiment) -> Iterator[tuple[str, Mapping[str, Points]]]:
    """Yield the x axis and the lines of each chart of an experiment. A chart has a panel of lines for each target.

    The x axis is `steps`, `gradients`, `budget`, or the key of another number in recipes. For `steps` and `gradients`,
    a line has one attack. Otherwise it has the attacks whose recipes differ only in this number. Its rates are means
    over source sets, unless it is split by source set. If there are black-box cells, only these are used. `cells`: the
    result of `experiments.averaged`.
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
    """Return whether any cell is black-box. No cell is black-box if all targets of an experiment are its sources."""
    return bool((cells["relation"] == "black").any())


def _families(spec: Spec, attacks: Sequence[str]) -> Mapping[str, _Members]:
    """Return the attacks of each chart, by the key of the number in which their recipes differ.

    Each attack has the name of its line and its x, see `_Members`.
    """
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
                # A curve needs at least three values. Two values are shown only in tables.
                drawn = len(group) > 2
            if drawn:
                members = {name: (group[0], None if key == "budget" else float(flat[name][key])) for name in group}
                families.setdefault(key, {}).update(members)
    return families


def _rest(flat: Mapping[str, Any], key: str, kind: str) -> str:
    """Return the recipe as text without the number `key`. Attacks with equal texts differ only in this number.

    For the budget, the step size is left out too.
    """
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
    """Return the points of every line, by target and name of the line.

    x is the value in the column `column` of the cells; if `column` is None, x is taken from `members`. If there is only
    one line and at most eight source sets, this line is split into one line per source set.
    """
    names = list(dict.fromkeys(line for line, _ in members.values()))
    sets = list(dict.fromkeys(cells["sources"]))
    by_source = len(names) == 1 and 1 < len(sets) <= _MOST_SETS
    rates: dict[str, dict[str, dict[float, list[tuple[float, float, float]]]]] = {}
    for cell in cells.filter(pl.col("attack").is_in(list(members))).iter_rows(named=True):
        line, place = members[cell["attack"]]
        steps, level = spec.attacks[cell["attack"]].scored_points[-1]
        # If x is not the budget, an attack counts only with its last budget. If x is neither the number of steps nor of
        # gradients, it counts only with its last number of steps.
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
    """Return the mean of rates and its interval. `rates` are triples of a rate and the two ends of its interval.

    A single rate keeps its interval. For several rates, the interval is NaN.
    """
    if len(rates) == 1:
        return rates[0]
    return sum(rate for rate, *_ in rates) / len(rates), float("nan"), float("nan")
