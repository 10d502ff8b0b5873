"""Mistakes in the report: whether targets agree, which wrong labels they give, and which classes fall."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import polars as pl

from study.analysis.classes import per_class, wrong_labels
from study.analysis.mistakes import agreement_matrix, agreements
from study.report.html.data import Gathered
from study.report.html.page import NOTHING, Cell, Room, Table, folded
from study.report.html.summary import polars
from study.reproducibility.hashing import digest

_MOST_ROWS = 1_000_000
"""Pairs of targets are looked at in so many rows at most: those of whole crafts, which a hash of their ids draws."""
_MOST_LABELS = 3
_MOST_CLASSES = 200
_MOST_TARGETS = 24


def mistakes(gathered: Gathered, name: str, room: Room) -> Iterator[str]:
    """What an experiment's targets get wrong, a folded table each, for each goal."""
    one = gathered.spec.experiments[name]
    for goal in dict.fromkeys(one.goal):
        cells = gathered.of(name, goal)
        if cells.is_empty():
            continue
        targets = [target for target in gathered.spec.targets(one) if target in set(cells["target"])]
        rows = gathered.rows_of(cells)
        title = f"{name}, {goal}"
        local = [target for target in targets if target not in gathered.spec.services]
        if 1 < len(local) <= _MOST_TARGETS:
            yield folded(f"{title}: do targets make the same mistakes?", _agreement(gathered, cells, local, room))
        if local:
            yield folded(f"{title}: most common wrong labels", _wrong(gathered, rows, title, room))
        yield folded(f"{title}: by class", _classes(gathered, rows, targets, room))


def _some(cells: pl.DataFrame) -> tuple[list[str], int]:
    """Crafts whose rows there is time to look at pair by pair, one at least; and of how many."""
    sizes = dict(cells.group_by("craft").agg(pl.col("images").sum()).iter_rows())
    chosen: list[str] = []
    rows = 0
    for craft in sorted(sizes, key=digest):
        rows += sizes[craft]
        if chosen and rows > _MOST_ROWS:
            break
        chosen.append(craft)
    return chosen, len(sizes)


def _agreement(gathered: Gathered, cells: pl.DataFrame, targets: Sequence[str], room: Room) -> str:
    """Of images that both get wrong, the share that both take for the same: Liu et al. 2017, table 9."""
    crafts, of = _some(cells)
    shown = cells.filter(pl.col("target").is_in(list(targets)))
    pairs = agreements(gathered.rows_of(shown, crafts), by=())
    if pairs.is_empty():
        return ""
    wide = {
        value: agreement_matrix(pairs, value) for value in ("same_mistake", "same_wrong", "both_wrong", "agreement")
    }
    rowed = {value: {line["target"]: line for line in frame.iter_rows(named=True)} for value, frame in wide.items()}
    lines = []
    for target in targets:
        line = [Cell(target)]
        for other in targets:
            found = {value: frame.get(target, {}).get(other) for value, frame in rowed.items()}
            share, same, wrong, agree = (found[value] for value in wide)
            if share is None or agree is None:
                line.append(NOTHING)
                continue
            tip = f"{same:,} of {wrong:,} that both get wrong; the same label, right or wrong: {100 * agree:.1f} %"
            line.append(Cell(f"{100 * share:.0f}", share, tip))
        lines.append(line)
    notes = ["% of the adversarial images that both targets get wrong, which both take for the same thing."]
    if len(crafts) < of:
        notes.append(f"{len(crafts)} of its {of} crafts, for pairs take long. All: analysis.agreements(rows)")
    return Table("Same mistake", ["target", *targets], lines, grid=True, notes=notes).html(room)


def _wrong(gathered: Gathered, rows: pl.LazyFrame, title: str, room: Room) -> str:
    found = wrong_labels(rows, gathered.spec.labels, most=_MOST_LABELS)
    lines = [
        [
            Cell(one["target"]),
            Cell(str(one["rank"]), number=True),
            Cell(one["name"]),
            Cell(f"{one['images']:,}", number=True),
            Cell(f"{100 * one['share']:.1f}", number=True),
        ]
        for one in found.iter_rows(named=True)
    ]
    if not lines:
        return ""
    head = ["target", "rank", "label", "rows", "% of its wrong ones"]
    call = "analysis.wrong_labels(rows, ours.labels, most=len(ours.labels))"
    return Table(f"Wrong labels, {title}", head, lines, polars(gathered, call)).html(room)


def _classes(gathered: Gathered, rows: pl.LazyFrame, targets: Sequence[str], room: Room) -> str:
    """By true label: how often its images succeed against each black-box target."""
    found = per_class(rows.filter(pl.col("relation") == "black"), gathered.spec.labels, by=("target",))
    if found.is_empty():
        return ""
    shown = targets[:_MOST_TARGETS]
    classes = (
        found.group_by("label", "name")
        .agg(pl.col("images").sum(), pl.col("hits").sum())
        .with_columns((pl.col("hits") / pl.col("images")).alias("success"))
        .sort("success", "label", descending=[True, False])
    )
    cells = {
        (label, target): (share, images, low, high)
        for label, target, share, images, low, high in found.select(
            "label", "target", "success", "images", "low", "high"
        ).iter_rows()
    }
    lines = []
    for one in classes.head(_MOST_CLASSES).iter_rows(named=True):
        line = [
            Cell(one["name"]),
            Cell(f"{one['images']:,}", number=True),
            Cell(f"{100 * one['success']:.1f}", one["success"]),
        ]
        for target in shown:
            share, images, low, high = cells.get((one["label"], target), (None, 0, None, None))
            if share is None:
                line.append(NOTHING)
            else:
                tip = f"{images:,} rows; 95 %: {100 * low:.1f} to {100 * high:.1f}"
                line.append(Cell(f"{100 * share:.0f}", share, tip))
        lines.append(line)
    call = "analysis.per_class(rows.filter(relation='black'), ours.labels, by=('target',))"
    notes = ["Success, %, of black-box rows: all attacks, sources and seeds of the experiment together."]
    if classes.height > _MOST_CLASSES:
        notes += [
            f"The {_MOST_CLASSES} of {classes.height:,} classes that fall most often. All of them:",
            polars(gathered, call),
        ]
    return Table("By true label", ["class", "rows", "all", *shown], lines, call, grid=True, notes=notes).html(room)
