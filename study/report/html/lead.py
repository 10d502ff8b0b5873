"""Makes the first part of the report: the question of the study, the main results, and the rankings of the attacks."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from study.analysis.ranking import ranking
from study.report.html.components import HtmlTable, TableCell, percent_cell
from study.report.html.report_data import ReportData
from study.report.wording import (
    IMAGE_KINDS,
    VISIBILITY,
    VISIBILITY_HEAD,
    correct_when_clean,
    fixed,
    listed,
    point_name,
    visibility_numbers,
)
from study.spec.schema import Spec
from study.terminal.screen import counted

_SEEN_HEAD = VISIBILITY_HEAD[1:]
_MOST_NAMED = 8
_MOST_TOLD = 4
_LEVEL = 0.05
_SEEN = 0.05
"""The smallest difference of success rates for which the text names the hardest and the easiest target."""
_VERBS = {"untargeted": "fool", "targeted": "reach the target label of"}
_VERB = {"untargeted": "fools", "targeted": "reaches the target label of"}
_INTERVAL = (
    "95 %: bootstrap interval over images. An image counts with its mean result in all cells (source sets, targets and "
    "seeds). If all images have the same result, the interval is Wilson's"
)
_BEHIND = (
    "Behind the first: the success of the first attack minus that of this attack, in percentage points, on images that "
    "both attacks have. p is from a paired test over images, with Holm's correction for the rows of this table"
)


@dataclass(frozen=True)
class Lead:
    """The first part of the page. `asked` is a text with the question of the study.

    `found` has a title and a text with the main results of the first four pairs of experiment and goal that have rows.
    `rankings` has a table for every such pair.
    """

    asked: str
    found: Sequence[tuple[str, str]]
    rankings: Sequence[HtmlTable]


def lead(data: ReportData) -> Lead:
    """Return the first part of the page."""
    found, tables = list[tuple[str, str]](), list[HtmlTable]()
    for name, experiment in data.spec.experiments.items():
        means = data.averages_of(name)
        for goal in dict.fromkeys(experiment.goal):
            ranked = ranking(data.rows_of(data.cells_of(name, goal)), data.spec, name, goal=goal, cells=means)
            if not ranked.is_empty():
                told = " ".join(_found(data.spec, goal, ranked, means.filter(goal=goal)))
                found.append((f"{name}, {goal}: ", told))
                tables.append(_table(data, name, goal, ranked, data.seen[name].filter(goal=goal)))
    if len(found) > _MOST_TOLD:
        found[_MOST_TOLD:] = [("", f"The rankings below show {len(found) - _MOST_TOLD} more.")]
    return Lead(_asked(data), found or [("", "No rows yet.")], tables)


def _asked(data: ReportData) -> str:
    """Return a text with the question of the study: its attacks, sources, targets, images, goals and budgets."""
    spec = data.spec
    experiments = spec.experiments.values()
    attacks = list(dict.fromkeys(name for one in experiments for name in one.attacks))
    targets = list(dict.fromkeys(name for one in experiments for name in spec.targets(one)))
    sets = list(dict.fromkeys(each for one in experiments for each in spec.source_sets(one)))
    goals = dict.fromkeys(goal for one in experiments for goal in one.goal)
    made = counted(len(sets), "source model") if all(len(one) == 1 for one in sets) else counted(
        len(sets), "set of source models", "sets of source models"
    )  # fmt: skip
    kind = IMAGE_KINDS.get(str(spec.images.labels), f"{len(spec.labels)}-class")
    right = correct_when_clean(spec, data.finished.selection.shards)
    rule = ", including images that models misclassify when clean" if right is None else f" {right}"
    return (
        f"How well do adversarial images of {counted(len(attacks), 'attack')} ({_listed(attacks)}), made on {made}, "
        f"fool {counted(len(targets), 'target model')}? {data.finished.selected:,} {kind} images of "
        f"{spec.images.size} x {spec.images.size} pixels{rule}; {' and '.join(goals)}{_budgets(spec, attacks)}."
    )


def _budgets(spec: Spec, attacks: Sequence[str]) -> str:
    kinds = {(spec.attacks[name].budget.kind, spec.attacks[name].budget.levels) for name in attacks}
    levels = sorted({level for _, each in kinds for level in each if level is not None})
    if {kind for kind, _ in kinds} != {"epsilon"} or not levels:
        return ""
    length = f"{levels[0]:g}" if len(levels) == 1 else f"{levels[0]:g} to {levels[-1]:g}"
    return f", with an L-infinity budget of {length} (pixel values 0..255)"


def _found(spec: Spec, goal: str, ranked: pl.DataFrame, means: pl.DataFrame) -> Iterator[str]:
    """Yield sentences about the strongest attack, the next attack, the weakest attack, and the targets.

    `ranked`: the result of `analysis.ranking`. `means`: the cells of the experiment and goal, averaged over seeds.
    """
    first, *others = ranked.to_dicts()
    target = f"a {first['relation']}-box target"
    interval = (
        "" if first["low"] is None else f" (95 %: {fixed(100 * first['low'], 0)} to {fixed(100 * first['high'], 0)} %)"
    )
    equal = _equal(others, first)
    others = others[len(equal) :]
    if not first["success"]:
        yield f"no image of any attack {_VERB[goal]} {target}{interval}."
        return
    named = _listed([first["attack"], *(one["attack"] for one in equal)])
    begin = "" if not others else "the strongest attack is " if not equal else "the strongest attacks are "
    yield (
        f"{begin}{named}: on average {_percent(first)} % of {'their' if equal else 'its'} images "
        f"{_VERBS[goal]} {target}{interval}."
    )
    if first["relation"] != "black":
        yield "There is no black-box target."
    if others:
        yield _next(_equal(others, others[0]), first["images"])
        weakest = _equal(others, others[-1])
        if others[0] not in weakest:
            verb = "is" if len(weakest) == 1 else "are"
            yield f"The weakest {verb} {_listed([one['attack'] for one in weakest])} with {_percent(others[-1])} %."
    if equal:
        return
    attack = first["attack"]
    by_target: dict[str, list[float]] = {}
    for cell in means.filter(relation=first["relation"], attack=attack).iter_rows(named=True):
        if cell["success"] is not None and (cell["steps"], cell["level"]) == spec.attacks[attack].scored_points[-1]:
            by_target.setdefault(cell["target"], []).append(cell["success"])
    rates = {name: sum(each) / len(each) for name, each in by_target.items()}
    if len(rates) > 1:
        hardest, easiest = min(rates, key=rates.__getitem__), max(rates, key=rates.__getitem__)
        least, most = (fixed(100 * rates[one], 0) for one in (hardest, easiest))
        if rates[hardest] + _SEEN < rates[easiest]:
            yield f"Against {attack}, {hardest} is the hardest target ({least} %), {easiest} the easiest ({most} %)."


def _equal(ranked: Sequence[Mapping[str, Any]], one: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return those attacks of `ranked` that have the same success rate as the attack `one`."""
    return [each for each in ranked if math.isclose(each["success"], one["success"], abs_tol=1e-9)]


def _percent(one: Mapping[str, Any]) -> str:
    return fixed(100 * one["success"], 0)


def _next(second: Sequence[Mapping[str, Any]], images: int) -> str:
    """Return a sentence about the attacks `second`, which come after the strongest. Their success rates are equal."""
    several, (one, *_) = len(second) > 1, second
    called, behind = _listed([each["attack"] for each in second]), one["behind"]
    if behind is None:
        return f"{called} {'follow' if several else 'follows'} with {_percent(one)} %."
    gap = f"{called} {'are' if several else 'is'} {fixed(100 * behind, 1)} percentage points behind"
    chances = [1.0 if each["p"] is None else each["p"] for each in second]
    clear = [each["attack"] for each, p in zip(second, chances, strict=True) if p < _LEVEL]
    if len(clear) == len(second):
        return f"{gap} ({_chance(max(chances))})."
    if not clear:
        return f"{gap}, which is not significant with {images:,} images ({_chance(min(chances))})."
    return f"{gap}; with {images:,} images, this is significant only for {_listed(clear)}."


def _table(data: ReportData, name: str, goal: str, ranked: pl.DataFrame, seen: pl.DataFrame) -> HtmlTable:
    """Return the table of the ranking, with the cost and the visibility of each attack."""
    spec = data.spec
    visible = {(one["attack"], one["steps"], one["level"]): one for one in seen.iter_rows(named=True)}
    rows = []
    for one in ranked.iter_rows(named=True):
        called = point_name(one["attack"], spec.attacks[one["attack"]], one["steps"], one["level"])
        seen_here = visible.get((one["attack"], one["steps"], one["level"]))
        numbers = ("–",) * len(_SEEN_HEAD) if seen_here is None else visibility_numbers(seen_here)[1:]
        rows.append(
            [
                TableCell(called),
                percent_cell(one["success"], f"mean of {one['cells']} cells, {one['images']:,} images", decimals=1),
                _interval(one),
                _behind(one),
                *(TableCell(number, number=True) for number in numbers),
            ]
        )
    kind = ranked["relation"][0]
    head = ["attack", f"{kind}-box mean, %", "95 %", "behind the first", *_SEEN_HEAD]
    # Leave out the columns without any value.
    columns = [at for at, called in enumerate(head) if not called or any(row[at].text not in ("", "–") for row in rows)]
    head, rows = [head[at] for at in columns], [[row[at] for at in columns] for row in rows]
    notes = [f"{_INTERVAL}. {_BEHIND}." if len(rows) > 1 else f"{_INTERVAL}."]
    notes += [f"{VISIBILITY}."] if "SSIM" in head else []
    code = data.code(f"analysis.ranking(rows, spec, {name!r}, goal={goal!r})")
    return HtmlTable(f"Ranking of attacks: {name}, {goal}", head, rows, code, notes=notes)


def _interval(one: Mapping[str, Any]) -> TableCell:
    if one["low"] is None:
        return TableCell("–", number=True)
    text = f"{fixed(100 * one['low'], 1)} to {fixed(100 * one['high'], 1)}"
    return TableCell(text, number=True, span=(one["low"], one["success"], one["high"]))


def _behind(one: Mapping[str, Any]) -> TableCell:
    if one["behind"] is None or one["p"] is None:
        return TableCell("", number=True)
    return TableCell(f"{fixed(100 * one['behind'], 1)} ({_chance(one['p'])})", number=True)


def _chance(p: float) -> str:
    return "p < 0.001" if p < 0.001 else f"p = {p:.2g}"


def _listed(given: Iterable[str]) -> str:
    names = list(given)
    if len(names) > _MOST_NAMED:
        return f"{', '.join(names[:_MOST_NAMED])} and {len(names) - _MOST_NAMED} more"
    return listed(names)
