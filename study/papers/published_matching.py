"""Matches each published number to the planned number of a spec that reproduces it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from study.errors import names
from study.papers import registry
from study.papers.preset_agreement import PlannedPoint, differences
from study.spec.schema import Experiment, Spec

_RATES = {"untargeted": ("accuracy", "success"), "targeted": ("match", "success")}
_PAIRS = ("same-mistake", "cosine")

PLANNED = pl.Schema(
    {
        "experiment": pl.String(),
        "attack": pl.String(),
        "called": pl.String(),
        "sources": pl.String(),
        "goal": pl.String(),
        "target": pl.String(),
        "steps": pl.Int64(),
        "level": pl.Float64(),
        "top": pl.Int64(),
        "metric": pl.String(),
        "seeds": pl.List(pl.Int64()),
    }
)
"""The columns of planned numbers.

`called` is the paper's name of the attack; null if the paper uses this name for another attack. `level` is the budget;
null if the attack has no fixed budget. `sources` are joined by `+`. For the metric same-mistake, `target` is a pair of
targets, sorted and joined by `+`. Numbers about clean images have the attack `none`, and their goal is null."""

_OURS = ("experiment", "our_attack", "our_sources", "our_target", "steps", "level", "top", "seeds")
MATCHED = pl.Schema({name: PLANNED[name.removeprefix("our_")] for name in _OURS} | {"reason": pl.String()})
"""The columns that `match` adds to a published row. Exactly one of `experiment` and `reason` is null."""


@dataclass(frozen=True)
class PublishedCell:
    """One planned number of a spec: a metric of an attack on a source set against a target.

    `shown_sources` and `shown_target` are the names that the paper prints. For an attack that is only random noise,
    `shown_sources` is empty.
    """

    experiment: str
    attack: str
    called: str | None
    sources: str
    shown_sources: str
    goal: str | None
    target: str
    shown_target: str
    steps: int | None
    level: float | None
    metric: str
    seeds: tuple[int, ...]
    point: PlannedPoint | None = None

    @property
    def top(self) -> int:
        return int(self.metric[3]) if self.metric.startswith("top") else 1

    @property
    def key(self) -> tuple[object, ...]:
        """The values that a published row also has: attack, goal, sources, target and metric, in the paper's names."""
        return (self.called, self.goal, self.shown_sources, self.shown_target, self.metric)

    @property
    def number(self) -> tuple[object, ...]:
        """The values that identify the number: attack run, point (steps and budget), target and metric.

        Two experiments that plan the same number have cells with equal values.
        """
        where = (self.sources, self.target, self.steps, self.level, self.metric)
        return (self.attack, self.goal, self.seeds, *where)


def planned(spec: Spec) -> pl.DataFrame:
    """Return every planned number of `spec`, with the columns of PLANNED.

    Each combination of attack, sources, goal, target, seeds and point has a number for every metric of its goal. The
    metrics clean accuracy, same-mistake and cosine are included only if an experiment reproduces a table with them.
    """
    cells = (cell for name in spec.experiments for cell in _cells(spec, name))
    return pl.DataFrame([{key: getattr(cell, key) for key in PLANNED} for cell in cells], schema=PLANNED)


def match(published: pl.DataFrame, spec: Spec) -> pl.DataFrame:
    """Return the published rows with the columns of MATCHED: the matching planned number, or why there is none.

    A row does not match if several different planned numbers fit. Rows that the paper quotes from other papers
    (`cited`) never match, because they are not results of the paper's own experiments. If several experiments plan the
    same number, the columns name the first of these experiments.
    """
    books = {name: _ExperimentCells(spec, name) for name, one in spec.experiments.items() if one.published is not None}
    found = [_match(row, books) for row in published.iter_rows(named=True)]
    return pl.concat([published, pl.DataFrame(found, schema=MATCHED)], how="horizontal")


def _cells(spec: Spec, name: str) -> Iterator[PublishedCell]:
    experiment = spec.experiments[name]
    seeds = spec.seeds_of(experiment)
    printed_name = experiment.published.printed if experiment.published else str
    printed = _metrics(experiment)
    for attack in dict.fromkeys(experiment.attacks):
        recipe = spec.attacks[attack]
        called = experiment.published.called(attack) if experiment.published else attack
        # An attack without steps is random noise. It uses no gradient, so it is the same for all sources.
        noise = recipe.steps == 0 and recipe.precomputed is None
        for sources in spec.source_sets(experiment):
            joined, targets = "+".join(sources), spec.targets(experiment, sources)
            dense = frozenset(one for one in sources if _is_dense(spec, one))
            for goal in dict.fromkeys(experiment.goal):
                metrics = [f"top{top}-{kind}" for kind in _RATES[goal] for top in (1, 5)]
                shown = [(target, metric) for target in targets for metric in metrics]
                if ("same-mistake", True) in printed:
                    shown += [(pair, "same-mistake") for pair in _pairs(targets)]
                for steps, level in recipe.scored_points:
                    point = PlannedPoint(recipe, sources, steps, level, dense)
                    base = (name, attack, called, joined, "" if noise else printed_name(joined), goal)
                    yield from (
                        PublishedCell(*base, target, printed_name(target), steps, level, metric, seeds, point)
                        for target, metric in shown
                    )
    for metric, attacked in sorted(printed):
        if metric in _PAIRS or attacked:
            continue
        for target in targets:
            yield PublishedCell(name, "none", "none", "", "", None, target, target, None, None, metric, seeds)
    if ("cosine", False) in printed:
        for first in targets:
            for second in targets:
                yield PublishedCell(
                    name, "none", "none", first, first, None, second, second, None, None, "cosine", seeds
                )


def _is_dense(spec: Spec, name: str) -> bool:
    model = spec.models.get(name)
    return model is not None and "densenet" in f"{name} {model.network}".lower()


def _pairs(targets: Sequence[str]) -> list[str]:
    ordered = sorted(targets)
    return [f"{one}+{other}" for at, one in enumerate(ordered) for other in ordered[at:]]


def _metrics(experiment: Experiment) -> set[tuple[str, bool]]:
    """Return the metrics in the published tables that an experiment reproduces.

    Each is a pair of the metric and whether it is measured on adversarial images; otherwise it is about clean images.
    """
    if experiment.published is None:
        return set()
    wanted = [one.partition(":")[::2] for one in experiment.published.tables]
    return {
        (row["metric"], row["attack"] != "none")
        for paper, table in wanted
        for row in registry.rows(paper)
        if row["table"] == table
    }


class _ExperimentCells:
    """The planned numbers of one experiment, by the values that published rows also have (`PublishedCell.key`)."""

    def __init__(self, spec: Spec, name: str) -> None:
        self.name = name
        self.spec = spec
        self.experiment = spec.experiments[name]
        assert self.experiment.published is not None
        self.tables = set(self.experiment.published.tables)
        self.cells: dict[tuple[object, ...], list[PublishedCell]] = {}
        for cell in _cells(spec, name):
            self.cells.setdefault(cell.key, []).append(cell)
        self.called = {key[0] for key in self.cells if key[0] is not None}
        self.sources = {key[2] for key in self.cells}

    def absent(self, row: Mapping[str, Any]) -> tuple[int, str]:
        """Return how far a published row matches this experiment, and the reason why no planned number matches it.

        The first result is larger if more values of the row occur in the experiment.
        """
        assert self.experiment.published is not None
        if row["attack"] not in self.called:
            near = names(sorted(map(str, self.called - {"none"})), row["attack"])
            return 0, f"{self.name} has no attack that the paper calls '{row['attack']}', but it has: {near}"
        if row["goal"] is not None and row["goal"] not in self.experiment.goal:
            return 1, f"{self.name} has no {row['goal']} attacks"
        for key, stage in (("sources", 2), ("target", 3)):
            for model in filter(None, (row[key] or "").split("+")):
                if model not in {*self.spec.models, *self.experiment.published.models.values()}:
                    return stage, f"the spec has no model '{model}'"
        if row["sources"] not in self.sources:
            return (
                2,
                f"{self.name} has no attack on {row['sources'] or 'an empty set of sources (noise: `steps: 0`)'}",
            )
        targets = [self.experiment.published.printed(one) for one in self.spec.targets(self.experiment)]
        missing = [one for one in row["target"].split("+") if one not in targets]
        if missing:
            return 3, f"'{missing[0]}' is not a target of {self.name}"
        return 4, f"{self.name} has no {row['metric']} of {row['sources']} against {row['target']}"


def _match(row: Mapping[str, Any], books: Mapping[str, _ExperimentCells]) -> dict[str, Any]:
    if row["cited"] is not None:
        return {"reason": f"the paper quotes {row['cited']}"}
    table = f"{row['paper']}:{row['table']}"
    mine = [book for book in books.values() if table in book.tables]
    if not mine:
        return {"reason": f"no experiment has `published: {table}`"}
    key = (row["attack"], row["goal"], row["sources"], row["target"], row["metric"])
    named = [cell for book in mine for cell in book.cells.get(key, ())]
    if not named:
        return {"reason": max((book.absent(row) for book in mine), key=lambda one: one[0])[1]}
    params = json.loads(row["params"] or "{}")
    against = [(_against(params, cell), cell) for cell in named]
    fitting = {cell.number: cell for wrong, cell in reversed(against) if not wrong}
    if not fitting:
        wrong, _ = min(against, key=lambda one: len(one[0]))
        return {"reason": "; ".join(wrong)}
    if len(fitting) > 1:
        return {"reason": f"more than one cell fits: {_told(fitting.values())}"}
    (cell,) = fitting.values()
    return {
        "experiment": cell.experiment,
        "our_attack": cell.attack,
        "our_sources": cell.sources,
        "our_target": cell.target,
        "steps": cell.steps,
        "level": cell.level,
        "top": cell.top,
        "seeds": list(cell.seeds),
    }


def _against(params: Mapping[str, Any], cell: PublishedCell) -> list[str]:
    if cell.point is None:
        return []
    if "steps" not in params and cell.steps != cell.point.recipe.steps:
        return [f"{cell.steps} steps are a checkpoint of {cell.attack}, but the paper does not state a number of steps"]
    return differences(params, cell.point)


def _told(cells: Iterable[PublishedCell]) -> str:
    """Return a text that describes several planned numbers, so that a reader sees how they differ.

    The text has the attack, sources, budget, steps, seeds and experiment of up to four numbers.
    """
    each = [
        f"{cell.attack} on {cell.sources or 'clean images'}"
        + (f" at {cell.level:g}" if cell.level is not None else "")
        + (f" after {cell.steps} steps" if cell.steps is not None else "")
        + f" with seeds {', '.join(map(str, cell.seeds))} ({cell.experiment})"
        for cell in sorted(cells, key=lambda one: (one.attack, one.sources, one.level or 0, one.steps or 0))
    ]
    more = f" and {len(each) - 4} more" if len(each) > 4 else ""
    return "; ".join(each[:4]) + more
