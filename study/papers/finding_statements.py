"""Measures the checks of findings. The result is one value for each image in each cell of a check.

A finding is a paper's claim with one check of this claim (study/papers/finding_spec.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import polars as pl

from study.analysis.rates import hits
from study.analysis.significance import Values
from study.analysis.sweeps import recipe_number
from study.papers.finding_cells import PlannedCell, select, without_transform
from study.papers.finding_spec import (
    Asymmetric,
    CellSelection,
    Check,
    Compare,
    Cosine,
    Destruction,
    Key,
    Monotone,
    Rate,
    Rmsd,
)
from study.spec.schema import Spec

Side = Literal["above", "below", "apart"]
KEYS = ("sources", "attack", "target")
_RUN_KEYS = ("sources", "attack", "goal", "seed", "target")
_NAMED = 4


@dataclass(frozen=True)
class Measured:
    """One measured cell of a check. The check compares the mean of the cell's values with a bound.

    Attributes:
        name: The name of the cell.
        images: The ids of its N images, in string order.
        values: The value of each image, float64 (N,).
        steps: For the check `monotone`, one item for each pair of adjacent points. An item has the names of the two
            points, and the change of each image's value between them, float64 (N,). Empty for other checks.
    """

    name: str
    images: tuple[str, ...]
    values: Values
    steps: tuple[tuple[str, Values], ...] = ()


@dataclass(frozen=True)
class Statement:
    """A measured check. The claim is that the mean of a cell's values is on the side `side` of `bound`.

    `apart` means that the distance of the mean from 0 is more than `bound`, in either direction. `rate`: whether the
    values are success rates; otherwise they are differences or cosines.
    """

    side: Side
    bound: float
    cells: tuple[Measured, ...]
    rate: bool = False
    missing: tuple[str, ...] = field(default=())
    """Reasons why the finding is undecided regardless of its numbers, such as missing rows."""


class Reader:
    """Reads those rows of a run that a selection of a check contains.

    `images`: the number of images in a complete cell; None for the number of images in `rows`. `geometry`: the rows of
    the gradient-cosine probes; None if the run has none.
    """

    def __init__(self, rows: pl.LazyFrame, spec: Spec, images: int | None, geometry: pl.LazyFrame | None) -> None:
        self.spec = spec
        self.geometry = geometry
        self.rows = rows
        self._images = rows.select(pl.col("image").n_unique()).collect().item() if images is None else images

    def read(
        self, selection: CellSelection, value: pl.Expr, *, every_step: bool = False
    ) -> tuple[pl.DataFrame, list[str]]:
        """Return the rows that a selection contains, and the names of its cells that lack rows.

        Columns: sources (as text), attack, goal, seed, target, image, steps, budget, gradients, and `value`, which is
        computed by the expression `value`. `every_step`: whether all checkpoints of an attack count.
        """
        cells = select(self.spec, selection, every_step=every_step)
        wanted = pl.DataFrame(
            [(*one.key[:3], seed, one.target) for one in cells for seed in one.seeds],
            schema=dict(zip(_RUN_KEYS, (pl.String, pl.String, pl.String, pl.Int64, pl.String), strict=True)),
            orient="row",
        )
        steps = pl.DataFrame(
            [(one.attack, step) for one in cells for step in {step for step, _ in one.points}],
            schema={"attack": pl.String, "steps": pl.Int32},
            orient="row",
        ).unique()
        found = (
            self.rows.filter(
                pl.col("attack").is_in(wanted["attack"].unique().to_list()),
                pl.col("target").is_in(wanted["target"].unique().to_list()),
            )
            .with_columns(value.alias("value"), pl.col("sources").list.join("+"))
            .filter(True if selection.budget is None else pl.col("budget") == selection.budget)
            .join(wanted.lazy(), on=_RUN_KEYS, how="semi")
            .join(steps.lazy(), on=["attack", "steps"], how="semi")
            .select(*_RUN_KEYS, "image", "steps", "budget", "gradients", "value")
            .collect()
        )
        return found, self._lacking(cells, found)

    def _lacking(self, cells: Sequence[PlannedCell], found: pl.DataFrame) -> list[str]:
        keys = ["sources", "attack", "goal", "target"]
        there = {tuple(one[:4]): one[4] for one in found.group_by(keys).len().iter_rows()}
        return [
            f"{one.attack} on {one.sources} against {one.target}"
            for one in cells
            if there.get(one.key, 0) < max(1, self._images) * len(one.seeds) * len(one.points)
        ]

    def hit(self, top: int) -> pl.Expr:
        return hits(self.rows, top=top).cast(pl.Float64)


def measure(check: Check, reader: Reader) -> Statement:
    """Return the measured values of a check. Raises StudyError if a selection contains no planned cell."""
    return _MEASURES[check.kind](getattr(check, check.kind), reader)


def _rate(check: Rate, reader: Reader) -> Statement:
    found, missing = reader.read(check.of, reader.hit(check.top))
    cells = [Measured(name, *_columns(one)) for name, one in _cells(_by_image(found, check.cells), check.cells)]
    side: Side = "above" if check.below is None else "below"
    bound = check.above if check.below is None else check.below
    assert bound is not None, "the validator of the spec requires a bound"
    return Statement(side, bound, tuple(cells), rate=True, missing=_reasons(missing))


def _compare(check: Compare, reader: Reader) -> Statement:
    better, lacking = reader.read(check.better, reader.hit(check.top))
    than, also = reader.read(check.than, reader.hit(check.top))
    reasons = _reasons(lacking + also)
    if check.equal and not reasons:
        costs = [sorted(one["gradients"].unique().to_list()) for one in (better, than)]
        if costs[0] != costs[1]:
            reasons = (f"gradients per image differ: {_listed(costs[0])} and {_listed(costs[1])}",)
    return Statement("above", check.by, _differences(better, than, check.cells), missing=reasons)


def _rmsd(check: Rmsd, reader: Reader) -> Statement:
    searched = {
        name: attack.budget.minimal.levels[-1]
        for name, attack in reader.spec.attacks.items()
        if attack.budget.minimal is not None
    }
    # A search for the minimal RMSD that never succeeds counts with the largest RMSD that it has tried.
    most = pl.col("attack").replace_strict(searched, default=None, return_dtype=pl.Float64)
    value = pl.when(most.is_not_null() & ~hits(reader.rows)).then(pl.max_horizontal(most, "rmsd")).otherwise("rmsd")
    less, lacking = reader.read(check.less, value)
    than, also = reader.read(check.than, value)
    return Statement("above", check.by, _differences(than, less, check.cells), missing=_reasons(lacking + also))


def _asymmetric(check: Asymmetric, reader: Reader) -> Statement:
    found, missing = reader.read(check.of, reader.hit(check.top))
    ways = dict(_cells(_by_image(found, ("sources", "target")), ("sources", "target"), joined=False))
    pairs = [tuple(one) for one in check.pairs or ()] or sorted(
        {tuple(sorted(way)) for way in ways if tuple(reversed(way)) in ways}
    )
    cells = []
    for one, other in pairs:
        forth, back = ways.get((one, other)), ways.get((other, one))
        if forth is not None and back is not None:
            both = forth.join(back, on="image", suffix="_back").sort("image")
            values = (both["value"] - both["value_back"]).to_numpy()
            cells.append(Measured(f"{one} -> {other} minus {other} -> {one}", tuple(both["image"]), values))
    return Statement("apart", check.by, tuple(cells), missing=_reasons(missing))


def _monotone(check: Monotone, reader: Reader) -> Statement:
    found, missing = reader.read(check.of, reader.hit(check.top), every_step=check.along == "steps")
    if check.along in KEYS:
        order: list[Any] = list(check.order or ())
        column = pl.col(check.along)
    elif check.along in ("steps", "budget"):
        column = pl.col(check.along)
        order = sorted(found[check.along].drop_nulls().unique().to_list())
    else:
        numbers = {name: recipe_number(one, check.along) for name, one in reader.spec.attacks.items()}
        values = {name: float(one) for name, one in numbers.items() if isinstance(one, int | float)}
        column = pl.col("attack").replace_strict(values, default=None, return_dtype=pl.Float64)
        order = sorted({values[name] for name in found["attack"].unique() if name in values})
    taken = {check.along} if check.along in KEYS else {"attack"} if check.along not in ("steps", "budget") else set()
    keys = [key for key in check.cells if key not in taken]
    means = found.with_columns(column.alias("x")).group_by(*keys, "x", "image").agg(pl.col("value").mean())
    cells = []
    for name, one in _cells(means, keys):
        columns = [
            one.filter(pl.col("x") == x).select("image", pl.col("value").alias(str(at))) for at, x in enumerate(order)
        ]
        if len(columns) > 1 and not any(each.is_empty() for each in columns):
            cells.append(_trend(name, columns, order, check.direction == "falling"))
    return Statement("above", check.by, tuple(cells), missing=_reasons(missing))


def _trend(name: str, columns: Sequence[pl.DataFrame], order: Sequence[Any], falling: bool) -> Measured:
    joined = columns[0]
    for column in columns[1:]:
        joined = joined.join(column, on="image")
    joined = joined.sort("image")
    rates = joined.drop("image").to_numpy() * (-1.0 if falling else 1.0)
    ranks = np.arange(len(order)) - (len(order) - 1) / 2
    line = rates @ ranks / (ranks @ ranks) * (len(order) - 1)
    shown = [f"{one:g}" if isinstance(one, float) else str(one) for one in order]
    steps = [(f"{shown[at]} and {shown[at + 1]}", rates[:, at + 1] - rates[:, at]) for at in range(len(order) - 1)]
    return Measured(name, tuple(joined["image"]), line, tuple(steps))


def _destruction(check: Destruction, reader: Reader) -> Statement:
    sides, missing, reasons = [], [], []
    for selection in (check.lower, check.than):
        transformed = select(reader.spec, selection)
        plains = {
            one.target: plain
            for one in transformed
            if (plain := without_transform(reader.spec, one.target)) is not None
        }
        if not plains:
            reasons.append("no target has a transform, or the spec lacks the same models without the transform")
            continue
        wrong = reader.hit(1)
        right = pl.when(pl.col("clean_top1") == pl.col("label")).then(wrong)
        again, lacking = reader.read(selection.model_copy(update={"targets": tuple(plains)}), 1 - wrong)
        behind = {
            "experiment": None,
            "boxes": "any",
            "attacks": tuple({one.attack for one in transformed}),
            "sources": tuple({tuple(one.sources.split("+")) for one in transformed}),
            "targets": tuple(dict.fromkeys(plains.values())),
        }
        bare = selection.model_copy(update=behind)
        fooled, also = reader.read(bare, right)
        missing += lacking + also
        keys = ["sources", "attack", "goal", "seed", "steps", "budget", "image"]
        joined = again.with_columns(pl.col("target").replace_strict(plains).alias("plain")).join(
            fooled.filter(pl.col("value") == 1).select(*keys, pl.col("target").alias("plain")),
            on=[*keys, "plain"],
            how="semi",
            nulls_equal=True,
        )
        sides.append(joined)
    cells = _differences(sides[1], sides[0], check.cells) if len(sides) == 2 else ()
    return Statement("above", check.by, cells, missing=(*dict.fromkeys(reasons), *_reasons(missing)))


def _cosine(check: Cosine, reader: Reader) -> Statement:
    if reader.geometry is None:
        return Statement("below", check.below, (), missing=("the run has no rows of a gradient-cosine probe",))
    found = reader.geometry.filter(pl.col("first") != pl.col("second"), pl.col("cosine").is_not_null())
    if check.probe is not None:
        found = found.filter(pl.col("probe") == check.probe)
    if check.models is not None:
        found = found.filter(pl.col("first").is_in(check.models), pl.col("second").is_in(check.models))
    plain = found.filter(pl.col("copies").is_null()).with_columns(
        pl.concat_str(pl.min_horizontal("first", "second"), pl.max_horizontal("first", "second"), separator=", ").alias(
            "target"
        ),
        pl.col("cosine").alias("value"),
    )
    means = plain.group_by("target", "image").agg(pl.col("value").mean()).collect()
    cells = [Measured(name, *_columns(one)) for name, one in _cells(means, ("target",))]
    reasons = () if cells else ("the run has no cosines of plain gradients that this check selects",)
    return Statement("below", check.below, tuple(cells), missing=reasons)


_MEASURES: dict[str, Callable[[Any, Reader], Statement]] = {
    "rate": _rate,
    "compare": _compare,
    "rmsd": _rmsd,
    "asymmetric": _asymmetric,
    "monotone": _monotone,
    "destruction": _destruction,
    "cosine": _cosine,
}


def _by_image(found: pl.DataFrame, keys: Sequence[Key | str]) -> pl.DataFrame:
    """Return the mean value of every image in every cell. `keys`: the columns that identify a cell."""
    counted = found.filter(pl.col("value").is_not_null())
    return counted.group_by(*keys, "image").agg(pl.col("value").mean())


def _differences(first: pl.DataFrame, second: pl.DataFrame, keys: Sequence[Key]) -> tuple[Measured, ...]:
    """Return the values of `first` minus the values of `second`, for the cells and images that both frames have."""
    joined = _by_image(first, keys).join(_by_image(second, keys), on=[*keys, "image"], suffix="_second")
    values = joined.with_columns(pl.col("value") - pl.col("value_second"))
    return tuple(Measured(name, *_columns(one)) for name, one in _cells(values, keys))


def _cells(found: pl.DataFrame, keys: Sequence[str], *, joined: bool = True) -> Iterable[tuple[Any, pl.DataFrame]]:
    """Group the rows of `found` by the columns `keys` into cells, and return pairs of a name and the cell's rows.

    The cells are sorted by key. The name is a readable text; if `joined` is false, it is the tuple of key values.
    """
    if found.is_empty():
        return []
    if not keys:
        return [("all", found)]
    parts = sorted(found.partition_by(list(keys), as_dict=True).items())
    return [(_name(dict(zip(keys, key, strict=True))) if joined else key, one) for key, one in parts]


def _name(key: dict[str, Any]) -> str:
    written = {"sources": "{} ->", "target": "{}", "attack": "{}:"}
    ordered = [name for name in ("attack", "sources", "target") if name in key]
    return " ".join(written[name].format(key[name]) for name in ordered).rstrip(":")


def _columns(found: pl.DataFrame) -> tuple[tuple[str, ...], Values]:
    ordered = found.sort("image")
    return tuple(ordered["image"].to_list()), ordered["value"].cast(pl.Float64).to_numpy()


def _reasons(missing: Sequence[str]) -> tuple[str, ...]:
    """Return a tuple with one reason that names the cells without all rows; an empty tuple if there are none."""
    each = list(dict.fromkeys(missing))
    if not each:
        return ()
    more = f" and {len(each) - _NAMED} more" if len(each) > _NAMED else ""
    return (f"rows are missing: {'; '.join(each[:_NAMED])}{more}",)


def _listed(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers)) or "none"
