"""What success can be drawn against: lines of attacks that are alike but for one number."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import polars as pl

from study.spec.schema import Experiment, Spec

_MOST_SETS = 8
"""Source sets that have lines of their own at most."""

Points = Mapping[str, Sequence[tuple[float, float, float, float]]]
"""By line, its points: x, success, and both ends of its interval (0..1; NaN where it is a mean of several cells)."""


def curves(cells: pl.DataFrame, spec: Spec, experiment: Experiment) -> Iterator[tuple[str, Mapping[str, Points]]]:
    """What success can be drawn against: `steps`, `gradients`, `budget`, or a number of the recipes by its key.

    With each, by target the lines of attacks that are alike but for it; only black-box cells if there are any, a mean
    where there are several source sets. `cells` are those of `experiments.averaged`.
    """
    black = cells.filter(pl.col("relation") == "black") if transferred(cells) else cells
    attacks = list(dict.fromkeys(experiment.attacks))
    stepped = [name for name in attacks if spec.attacks[name].checkpoints]
    if stepped:
        alone = {name: (name, None) for name in stepped}
        yield "steps", _lines(black, alone, "steps", spec)
        if len(stepped) < len(attacks) or len(stepped) > 1:
            yield "gradients", _lines(black, {name: (name, None) for name in attacks}, "gradients", spec)
    families = _families(spec, attacks)
    for along, members in families.items():
        yield along, _lines(black, members, "level" if along == "budget" else None, spec)


def transferred(cells: pl.DataFrame) -> bool:
    """Whether any cell is black-box: an experiment may be about sources alone."""
    return bool((cells["relation"] == "black").any())


Members = Mapping[str, tuple[str, float | None]]
"""By attack, the line that it is on, and its place there; None where each of its points has a place of its own."""


def _families(spec: Spec, attacks: Sequence[str]) -> Mapping[str, Members]:
    """By what they differ in, attacks that are alike but for that one number."""
    dumps = {
        name: spec.attacks[name].model_dump(mode="json", exclude={"checkpoints", "precomputed"}) for name in attacks
    }
    flat = {name: dict(_flat(dump)) for name, dump in dumps.items()}
    found: dict[str, dict[str, tuple[str, float | None]]] = {}
    keys = dict.fromkeys(key for one in flat.values() for key, value in one.items() if _is_number(value))
    for key in ["budget", *(key for key in keys if not key.startswith("budget") and key != "step_size")]:
        groups: dict[str, list[str]] = {}
        for name, one in flat.items():
            if spec.attacks[name].budget.minimal is None and (key == "budget" or _is_number(one.get(key))):
                groups.setdefault(_rest(one, key, spec.attacks[name].budget.kind), []).append(name)
        for group in groups.values():
            levels = spec.attacks[group[0]].budget.levels
            if key == "budget":
                wanted = len(levels) > 1 if len(group) == 1 else levels[0] is not None
            else:
                # Two numbers of a recipe are two rows of a table; a curve begins with three.
                wanted = len(group) > 2
            if wanted:
                members = {name: (group[0], None if key == "budget" else float(flat[name][key])) for name in group}
                found.setdefault(key, {}).update(members)
    return found


def _rest(flat: Mapping[str, Any], key: str, kind: str) -> str:
    hidden = ("budget", "step_size") if key == "budget" else (key,)
    rest = {one: value for one, value in flat.items() if not one.startswith(hidden)}
    return json.dumps([rest, kind], sort_keys=True)


def _flat(dump: Mapping[str, Any], inside: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in dump.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{inside}{key}.")
        else:
            yield f"{inside}{key}", value


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _lines(cells: pl.DataFrame, members: Members, column: str | None, spec: Spec) -> Mapping[str, Points]:
    """By target, by line, the points; a column of the cells gives their places, or the members do.

    Where all would be on one line, there is one for each source set instead, if those are not too many.
    """
    names = list(dict.fromkeys(line for line, _ in members.values()))
    sets = list(dict.fromkeys(cells["sources"]))
    by_source = len(names) == 1 and 1 < len(sets) <= _MOST_SETS
    found: dict[str, dict[str, dict[float, list[tuple[float, float, float]]]]] = {}
    for one in cells.filter(pl.col("attack").is_in(list(members))).iter_rows(named=True):
        line, place = members[one["attack"]]
        line = one["sources"] if by_source else line
        recipe = spec.attacks[one["attack"]]
        steps, level = recipe.points[-1]
        # A line is about one thing: along it, whatever else an attack has several of stands at its last.
        if (column != "level" and one["level"] != level) or (column in (None, "level") and one["steps"] != steps):
            continue
        x = place if column is None else one[column]
        if x is not None:
            there = found.setdefault(one["target"], {}).setdefault(line, {}).setdefault(float(x), [])
            there.append((one["success"], one["low"], one["high"]))
    return {
        target: {
            line: [(x, *mean(there)) for x, there in sorted(found[target][line].items())]
            for line in (sets if by_source else names)
            if line in found[target]
        }
        for target in spec.models
        if target in found
    }


def mean(cells: Sequence[tuple[float, float, float]]) -> tuple[float, float, float]:
    if len(cells) == 1:
        return cells[0]
    return sum(one for one, *_ in cells) / len(cells), float("nan"), float("nan")
