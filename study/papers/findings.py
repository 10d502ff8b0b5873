"""Whether a run's rows bear out what a spec's findings claim."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import polars as pl

from study.analysis import bootstrap, intervals, significance
from study.analysis.significance import Values
from study.errors import StudyError
from study.papers.finding_spec import Holds
from study.papers.finding_statements import Measured, Reader, Side, Statement, measure
from study.spec.schema import Spec

Verdict = Literal["replicated", "not replicated", "undecided"]

_LEVEL = 0.05
_CELL = {"cell": pl.String, "images": pl.UInt32, "effect": pl.Float64, "low": pl.Float64, "high": pl.Float64}
CELLS = pl.Struct({**_CELL, "p": pl.Float64, "holm": pl.Float64, "verdict": pl.String, "reason": pl.String})
READING = pl.Struct({
    "verdict": pl.String, "cell": pl.String,
    **dict.fromkeys(("effect", "low", "high", "p"), pl.Float64),
    "reason": pl.String,
})  # fmt: skip
"""One way to read a finding: `average`, `each` or `some`. See FINDINGS."""

FINDINGS = pl.Schema(
    {
        "finding": pl.String(),
        "claim": pl.String(),
        "source": pl.String(),
        "check": pl.String(),
        "holds": pl.String(),
        "verdict": pl.String(),
        "side": pl.String(),
        "bound": pl.Float64(),
        "effect": pl.Float64(),
        "low": pl.Float64(),
        "high": pl.Float64(),
        "p": pl.Float64(),
        "images": pl.UInt32(),
        "reason": pl.String(),
        "average": READING,
        "each": READING,
        "some": READING,
        "cells": pl.List(CELLS),
    }
)
"""One row for each finding. The claim says that an effect lies on this `side` of `bound`: a rate, a difference of
rates, an RMSD saved, a change from the first to the last, or a cosine.

Three readings of it are told apart, each with a verdict, an effect with its interval, and a p-value of its own:

- `average`: the mean over images of the mean over the finding's cells;
- `each`: every cell. The numbers are those of the `cell` that bears it out least, p of the intersection-union test;
- `some`: at least one cell. The numbers are those of the `cell` that bears it out most clearly, p after Holm's
  correction.

The one that the finding asks for (`holds`) gives `verdict`, `effect`, `low`, `high`, `p` and `reason`. `cells` has each
of them, as that reading judges it."""


@dataclass(frozen=True)
class _Judged:
    """One mean held against its bound. `p` is two-sided; `beyond` and `short` say on which side of the bound the whole
    interval lies."""

    name: str
    images: int
    effect: float
    low: float
    high: float
    p: float
    beyond: bool
    short: bool
    bound: float
    turned: str = ""
    """Of trends: which neighbours clearly go the other way."""
    apart: bool = False

    def holds(self, p: float) -> bool:
        """Whether it bears the claim out, by this p-value."""
        return self.beyond and p < _LEVEL and not self.turned

    def fails(self, p: float) -> bool:
        """Whether it speaks against the claim, by this p-value. A mean within a margin has none: its interval tells."""
        return bool(self.turned) or (self.short and (p < _LEVEL or self.apart))

    def verdict(self, holding: float, failing: float) -> Verdict:
        return "replicated" if self.holds(holding) else "not replicated" if self.fails(failing) else "undecided"

    def reason(self, holding: float, failing: float) -> str:
        if not self.images:
            return "no image counts"
        if self.turned:
            return self.turned
        if self.beyond and not self.holds(holding):
            return f"the interval is beyond {self.bound:g}, but p is {holding:.2g}"
        if not self.beyond and not self.short:
            return f"the interval {self.low:.3g} to {self.high:.3g} includes {self.bound:g}"
        if self.short and not self.fails(failing):
            return f"the interval speaks against it, but p is {failing:.2g}"
        return f"{self.effect:.3g}, {self.low:.3g} to {self.high:.3g}, p {holding if self.beyond else failing:.2g}"


def evaluate(
    rows: pl.LazyFrame,
    spec: Spec,
    *,
    images: int | None = None,
    geometry: pl.LazyFrame | None = None,
) -> pl.DataFrame:
    """Every finding of `spec` held against `rows`: a frame with the columns of FINDINGS, in the spec's order.

    A mean bears a claim out where its 95 % interval lies beyond the bound and the test of that bound has p below
    0.05; it speaks against it where both say the opposite; else it is undecided. A claim about every cell is borne
    out where every cell bears it out at that level, uncorrected: all must, so that their number makes no error more
    likely (intersection-union test, Berger 1982). It is refuted where a cell speaks against it after Holm's
    correction over the cells, for there one among many is picked. A claim about some cell is the other way round:
    one must bear it out after Holm's correction, and it is refuted where every cell speaks against it. A finding is
    undecided as well where rows are missing: of `images` selected ones, or, unless given, of those that any row is
    of. `geometry` are the rows of the run's gradient-cosine probes.

    Intervals: Wilson's for rates, the percentile bootstrap over images for all else. Tests: exact binomial for rates,
    McNemar's exact test for differences of two outcomes, else sign flips over images. Means of differences on which
    both agree without exception are decided by the test alone.
    """
    reader = Reader(rows, spec, images, geometry)
    found = []
    for name, finding in spec.findings.items():
        said = getattr(finding.check, finding.check.kind)
        head = {"finding": name, "claim": finding.claim, "source": finding.source, "check": finding.check.kind}
        try:
            statement = measure(finding.check, reader)
        except StudyError as error:
            raise error.located(f"finding '{name}'") from None
        found.append({**head, "holds": said.holds, **_judge(statement, said.holds)})
    return pl.DataFrame(found, schema=FINDINGS)


def _judge(statement: Statement, holds: Holds) -> dict[str, object]:
    turned = _turns(statement.cells)
    cells = [_one(one.name, (one.images, one.values), statement, turned.get(one.name, "")) for one in statement.cells]
    holm = _corrected(cells, statement.side)
    whole = _one("all", _pooled(statement.cells), statement)
    readings = {
        "average": _average(cells, whole),
        "each": _each(cells, holm, statement.side),
        "some": _some(cells, holm, statement.side),
    }
    if statement.missing:
        lacking = {"verdict": "undecided", "reason": "; ".join(statement.missing)}
        readings = {name: {**one, **lacking} for name, one in readings.items()}
    chosen = readings[holds]
    details = [
        {
            "cell": one.name,
            "images": one.images,
            "effect": one.effect,
            "low": one.low,
            "high": one.high,
            "p": one.p,
            "holm": corrected,
            "verdict": one.verdict(*_levels(one, corrected, holds)),
            "reason": one.reason(*_levels(one, corrected, holds)),
        }
        for one, corrected in zip(cells, holm, strict=True)
    ]
    return {
        "side": statement.side,
        "bound": statement.bound,
        **{name: chosen[name] for name in ("verdict", "effect", "low", "high", "p", "reason")},
        "images": whole.images,
        **readings,
        "cells": [{key: _known(value) for key, value in one.items()} for one in details],
    }


def _levels(cell: _Judged, corrected: float, holds: Holds) -> tuple[float, float]:
    """The p-values by which a cell bears a claim out, and speaks against it: see `evaluate`."""
    return (corrected, cell.p) if holds == "some" else (cell.p, corrected)


def _reading(verdict: Verdict, reason: str, shown: _Judged | None, p: float, *, cell: bool = True) -> dict[str, object]:
    numbers = {key: math.nan if shown is None else getattr(shown, key) for key in ("effect", "low", "high")}
    return {
        "verdict": verdict,
        "cell": shown.name if cell and shown is not None else None,
        **{key: _known(value) for key, value in {**numbers, "p": p}.items()},
        "reason": reason,
    }


_NO_CELL = "no cell has an image that counts"


def _average(cells: Sequence[_Judged], whole: _Judged) -> dict[str, object]:
    if not cells:
        return _reading("undecided", _NO_CELL, None, math.nan, cell=False)
    # A trend that turns in a cell is still a trend of the mean: the mean has no neighbours of its own.
    return _reading(whole.verdict(whole.p, whole.p), whole.reason(whole.p, whole.p), whole, whole.p, cell=False)


def _corrected(cells: Sequence[_Judged], side: Side) -> list[float]:
    """The cells' p after Holm's correction: among what bears the claim out, or among what speaks against it.

    A cell on the other side counts there with p = 1: a clear one must not make it easier for the rest.
    """
    bearing = significance.holm([one.p if _on_side(one, side) else 1.0 for one in cells])
    against = significance.holm([1.0 if _on_side(one, side) else one.p for one in cells])
    return [b if _on_side(one, side) else a for one, b, a in zip(cells, bearing, against, strict=True)]


def _each(cells: Sequence[_Judged], holm: Sequence[float], side: Side) -> dict[str, object]:
    """Every cell bears it out. Its p is the largest of theirs, 1 where one is not even on the claim's side."""
    if not cells:
        return _reading("undecided", _NO_CELL, None, math.nan)
    both = list(zip(cells, holm, strict=True))
    against = [(one, p) for one, p in both if one.fails(p)]
    open_ = [one for one in cells if not one.holds(one.p)]
    counts = f"{len(cells) - len(open_)} of {len(cells)} cells bear it out, {len(against)} speak against it"
    if against:
        one, p = min(against, key=lambda pair: (bool(pair[0].turned), pair[1]))
        return _reading("not replicated", f"{counts}: {one.name}: {one.reason(one.p, p)}", one, p)
    weakest = min(cells, key=lambda one: _strength(one, side) if one.images else -math.inf)
    p = max(one.p if _on_side(one, side) else 1.0 for one in cells)
    if open_:
        first = open_[0]
        corrected = dict(zip((one.name for one in cells), holm, strict=True))[first.name]
        return _reading("undecided", f"{counts}: {first.name}: {first.reason(first.p, corrected)}", weakest, p)
    return _reading("replicated", counts, weakest, p)


def _some(cells: Sequence[_Judged], holm: Sequence[float], side: Side) -> dict[str, object]:
    """A cell bears it out. Its p is the smallest after Holm's correction of those on the claim's side."""
    if not cells:
        return _reading("undecided", _NO_CELL, None, math.nan)
    both = list(zip(cells, holm, strict=True))
    bearing = [one for one, p in both if one.holds(p)]
    against = [one for one in cells if one.fails(one.p)]
    counts = f"{len(bearing)} of {len(cells)} cells bear it out, {len(against)} speak against it"
    strongest, corrected = max(both, key=lambda pair: _strength(pair[0], side) if pair[0].images else -math.inf)
    p = min((p for one, p in both if _on_side(one, side)), default=1.0)
    if bearing:
        least, its = min(((one, p) for one, p in both if one.holds(p)), key=lambda pair: pair[1])
        return _reading("replicated", f"{counts}: {least.name}: {least.reason(its, least.p)}", least, its)
    if len(against) == len(cells):
        return _reading("not replicated", counts, strongest, max(one.p for one in cells))
    reason = strongest.reason(corrected, strongest.p)
    return _reading("undecided", f"{counts}: {strongest.name}: {reason}", strongest, p)


def _strength(cell: _Judged, side: Side) -> float:
    """How far the nearer end of the interval lies on the claim's side: more bears it out more."""
    if side == "above":
        return cell.low
    if side == "below":
        return -cell.high
    return max(cell.low, -cell.high)


def _on_side(cell: _Judged, side: Side) -> bool:
    """Whether the effect lies on the claim's side of the bound."""
    if side == "above":
        return cell.effect > cell.bound
    if side == "below":
        return cell.effect < cell.bound
    return abs(cell.effect) > cell.bound


def _known(value: object) -> object:
    """Null for a number that nothing counts towards."""
    return None if isinstance(value, float) and math.isnan(value) else value


def _turns(cells: Sequence[Measured]) -> dict[str, str]:
    """Of trends: the cells in which two neighbours clearly go the other way."""
    steps = [(one.name, pair, values) for one in cells for pair, values in one.steps]
    adjusted = significance.holm([significance.difference(values) for *_, values in steps])
    found: dict[str, str] = {}
    for (name, pair, values), p in zip(steps, adjusted, strict=True):
        if p < _LEVEL and bootstrap.interval_of_mean(values)[1] < 0:
            found.setdefault(name, f"{pair} go the other way, by {-values.mean():.3g} (p {p:.2g})")
    return found


def _one(name: str, counted: tuple[Sequence[str], Values], statement: Statement, turned: str = "") -> _Judged:
    values, bound, apart = counted[1], statement.bound, statement.side == "apart"
    if len(values) == 0:
        return _Judged(name, 0, math.nan, math.nan, math.nan, 1.0, False, False, bound)
    effect = float(values.mean())
    if statement.rate:
        low, high = intervals.interval_of_rate(float(values.sum()), len(values))
        p = significance.binomial(float(values.sum()), len(values), bound)
    else:
        low, high = bootstrap.interval_of_mean(values)
        p = significance.difference(values, math.copysign(bound, effect) if apart else bound)
    beyond, short = _beyond(statement.side, bound, low, high)
    return _Judged(name, len(values), effect, low, high, p, beyond, short, bound, turned, apart)


def _beyond(side: str, bound: float, low: float, high: float) -> tuple[bool, bool]:
    """Whether the interval lies where the claim says, and whether it lies where it says not."""
    if side == "above":
        return low > bound, high < bound
    if side == "below":
        return high < bound, low > bound
    return low > bound or high < -bound, -bound < low and high < bound


def _pooled(cells: Sequence[Measured]) -> tuple[Sequence[str], Values]:
    """The mean over the cells that an image is in, image by image."""
    sums: dict[str, list[float]] = {}
    for one in cells:
        for image, value in zip(one.images, one.values.tolist(), strict=True):
            sums.setdefault(image, []).append(value)
    ordered = sorted(sums)
    return ordered, np.array([math.fsum(sums[image]) / len(sums[image]) for image in ordered], dtype=np.float64)
