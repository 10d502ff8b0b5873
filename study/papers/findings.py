"""Evaluates findings: whether the rows of a run support the claims of a spec."""

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
    "needed": pl.UInt32, "reason": pl.String,
})  # fmt: skip
"""One reading of a finding: `average`, `each` or `some`. See FINDINGS."""

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
        "needed": pl.UInt32(),
        "reason": pl.String(),
        "average": READING,
        "each": READING,
        "some": READING,
        "cells": pl.List(CELLS),
    }
)
"""One row for each finding. The finding claims that an effect lies on `side` of `bound`. The effect is a rate, a
difference of rates, a difference of RMSDs, a change from the first to the last point, or a cosine.

A finding has three readings, each with a verdict, an effect with its interval, and a p-value:

- `average`: the mean over images of the mean over the finding's cells;
- `each`: the claim holds in every cell. `cell` is the cell that supports it least; `p` is the p-value of the
  intersection-union test;
- `some`: the claim holds in at least one cell. `cell` is the cell that supports it most clearly; `p` has Holm's
  correction.

`holds` names the reading that the finding claims; `verdict`, `effect`, `low`, `high`, `p`, `needed` and `reason` are
those of this reading. `images` is the number of images of the average. `needed` is an estimate of the number of images
that would decide an undecided reading, if effects and spreads stay the same; null for a decided reading, for missing
rows, and for an effect that lies on the bound. `cells` has every cell, with its verdict under the claimed reading."""


@dataclass(frozen=True)
class _Judged:
    """One mean, compared with its bound. `p` is two-sided.

    `beyond`: the whole interval lies on the claim's side of the bound. `short`: it lies on the other side. If both are
    false, the interval contains the bound.
    """

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
    """For trends: a message if two neighbouring points clearly change in the other direction; otherwise empty."""
    apart: bool = False
    variance: float = math.nan
    """The variance of one image's value around the bound; for a rate, the variance if the rate were `bound`."""
    exact: Literal["binomial", "mcnemar", ""] = ""
    """The exact test that gives `p`; empty for another test."""

    def needed(self, level: float = _LEVEL) -> int | None:
        """Estimate how many images would decide on which side of the bound the mean lies; None if that is unknown."""
        gap = (abs(self.effect) if self.apart else self.effect) - self.bound
        # With fewer images, p cannot fall below the level even if all images agree.
        fewest = 1 if self.exact == "binomial" else math.ceil(1 - math.log2(level))
        correction = {"binomial": 0.5, "mcnemar": 1.0, "": 0.0}[self.exact]
        return significance.images_needed(
            gap, self.variance, level, correction=correction, least=max(fewest, self.images + 1)
        )

    def holds(self, p: float) -> bool:
        """Whether the mean supports the claim, with p-value `p`."""
        return self.beyond and p < _LEVEL and not self.turned

    def fails(self, p: float) -> bool:
        """Whether the mean contradicts the claim, with p-value `p`. For side `apart`, the interval alone decides."""
        return bool(self.turned) or (self.short and (p < _LEVEL or self.apart))

    def verdict(self, holding: float, failing: float) -> Verdict:
        return "replicated" if self.holds(holding) else "not replicated" if self.fails(failing) else "undecided"

    def reason(self, holding: float, failing: float) -> str:
        if not self.images:
            return "no image has a value for this check"
        if self.turned:
            return self.turned
        if self.beyond and not self.holds(holding):
            return f"the interval is beyond {self.bound:g}, but p is {holding:.2g}"
        if not self.beyond and not self.short:
            return f"the interval {self.low:.3g} to {self.high:.3g} includes {self.bound:g}"
        if self.short and not self.fails(failing):
            return f"the interval contradicts the claim, but p is {failing:.2g}"
        return f"{self.effect:.3g}, {self.low:.3g} to {self.high:.3g}, p {holding if self.beyond else failing:.2g}"


def evaluate(
    rows: pl.LazyFrame,
    spec: Spec,
    *,
    images: int | None = None,
    geometry: pl.LazyFrame | None = None,
) -> pl.DataFrame:
    """Evaluate every finding of `spec` with `rows`. Returns a frame with the columns of FINDINGS, in the spec's order.

    A mean supports a claim if its 95 % interval lies on the claim's side of the bound and the test of the bound has
    p < 0.05. It contradicts the claim if the interval lies on the other side and p < 0.05. Otherwise it is undecided.

    - A claim about every cell is replicated if every cell supports it. No correction is needed: because all cells must
      support it, more cells do not make an error more likely (intersection-union test, Berger 1982). The claim is not
      replicated if some cell contradicts it after Holm's correction over the cells.
    - A claim about some cell is replicated if a cell supports it after Holm's correction. It is not replicated if every
      cell contradicts it.

    A finding is also undecided if rows are missing. `images`: number of images in a complete cell; None: all images in
    `rows`. `geometry`: the rows of the run's gradient-cosine probes.

    Intervals: Wilson for rates, percentile bootstrap over images for the rest. Tests: exact binomial for rates,
    McNemar's exact test for differences of two outcomes, sign flips over images for the rest.
    """
    reader = Reader(rows, spec, images, geometry)
    found = []
    for name, finding in spec.findings.items():
        holds = getattr(finding.check, finding.check.kind).holds
        head = {"finding": name, "claim": finding.claim, "source": finding.source, "check": finding.check.kind}
        try:
            statement = measure(finding.check, reader)
        except StudyError as error:
            raise error.located(f"finding '{name}'") from None
        found.append({**head, "holds": holds, **_judge(statement, holds)})
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
        lacking = {"verdict": "undecided", "needed": None, "reason": "; ".join(statement.missing)}
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
        **{name: chosen[name] for name in ("verdict", "effect", "low", "high", "p", "needed", "reason")},
        "images": whole.images,
        **readings,
        "cells": [{key: _known(value) for key, value in one.items()} for one in details],
    }


def _levels(cell: _Judged, corrected: float, holds: Holds) -> tuple[float, float]:
    """The p-values with which a cell supports and contradicts a claim: see `evaluate`."""
    return (corrected, cell.p) if holds == "some" else (cell.p, corrected)


def _reading(
    verdict: Verdict, reason: str, shown: _Judged | None, p: float, *, cell: bool = True, needed: int | None = None
) -> dict[str, object]:
    numbers = {key: math.nan if shown is None else getattr(shown, key) for key in ("effect", "low", "high")}
    return {
        "verdict": verdict,
        "cell": shown.name if cell and shown is not None else None,
        **{key: _known(value) for key, value in {**numbers, "p": p}.items()},
        "needed": needed if verdict == "undecided" else None,
        "reason": reason,
    }


_NO_CELL = "no cell has an image with a value for this check"


def _average(cells: Sequence[_Judged], whole: _Judged) -> dict[str, object]:
    if not cells:
        return _reading("undecided", _NO_CELL, None, math.nan, cell=False)
    # The average ignores `turned`: a trend that reverses in one cell can still be a trend of the mean.
    verdict, reason = whole.verdict(whole.p, whole.p), whole.reason(whole.p, whole.p)
    return _reading(verdict, reason, whole, whole.p, cell=False, needed=whole.needed())


def _corrected(cells: Sequence[_Judged], side: Side) -> list[float]:
    """The cells' p-values after Holm's correction: separately for cells on the claim's side and for the other cells.

    In each correction, cells of the other group count with p = 1: a clear result there must not help this group.
    """
    bearing = significance.holm([one.p if _on_side(one, side) else 1.0 for one in cells])
    against = significance.holm([1.0 if _on_side(one, side) else one.p for one in cells])
    return [b if _on_side(one, side) else a for one, b, a in zip(cells, bearing, against, strict=True)]


def _each(cells: Sequence[_Judged], holm: Sequence[float], side: Side) -> dict[str, object]:
    """The reading `each`. Its p is the largest p of a cell, or 1 if a cell is not on the claim's side."""
    if not cells:
        return _reading("undecided", _NO_CELL, None, math.nan)
    both = list(zip(cells, holm, strict=True))
    against = [(one, p) for one, p in both if one.fails(p)]
    open_ = [one for one in cells if not one.holds(one.p)]
    counts = f"{len(cells) - len(open_)} of {len(cells)} cells support the claim, {len(against)} contradict it"
    if against:
        one, p = min(against, key=lambda pair: (bool(pair[0].turned), pair[1]))
        return _reading("not replicated", f"{counts}: {one.name}: {one.reason(one.p, p)}", one, p)
    weakest = min(cells, key=lambda one: _strength(one, side) if one.images else -math.inf)
    p = max(one.p if _on_side(one, side) else 1.0 for one in cells)
    if open_:
        first = open_[0]
        corrected = dict(zip((one.name for one in cells), holm, strict=True))[first.name]
        reason = f"{counts}: {first.name}: {first.reason(first.p, corrected)}"
        needed = _deciding_images(cells, side, every=True)
        return _reading("undecided", reason, weakest, p, needed=needed)
    return _reading("replicated", counts, weakest, p)


def _some(cells: Sequence[_Judged], holm: Sequence[float], side: Side) -> dict[str, object]:
    """The reading `some`. Its p is the smallest corrected p of the cells on the claim's side."""
    if not cells:
        return _reading("undecided", _NO_CELL, None, math.nan)
    both = list(zip(cells, holm, strict=True))
    bearing = [one for one, p in both if one.holds(p)]
    against = [one for one in cells if one.fails(one.p)]
    counts = f"{len(bearing)} of {len(cells)} cells support the claim, {len(against)} contradict it"
    strongest, corrected = max(both, key=lambda pair: _strength(pair[0], side) if pair[0].images else -math.inf)
    p = min((p for one, p in both if _on_side(one, side)), default=1.0)
    if bearing:
        least, its = min(((one, p) for one, p in both if one.holds(p)), key=lambda pair: pair[1])
        return _reading("replicated", f"{counts}: {least.name}: {least.reason(its, least.p)}", least, its)
    if len(against) == len(cells):
        return _reading("not replicated", counts, strongest, max(one.p for one in cells))
    reason = strongest.reason(corrected, strongest.p)
    needed = _deciding_images(cells, side, every=False)
    return _reading("undecided", f"{counts}: {strongest.name}: {reason}", strongest, p, needed=needed)


def _deciding_images(cells: Sequence[_Judged], side: Side, *, every: bool) -> int | None:
    """Estimate how many images decide an undecided claim about `every` cell, or else about some cell.

    A single cell can decide against a claim about every cell, or for a claim about some cell, after Holm's correction
    over the cells. If no cell tends that way, the estimate is the number of images that decides all cells.
    """
    deciding = [one for one in cells if _on_side(one, side) != every]
    if deciding:
        return min(filter(None, (one.needed(_LEVEL / len(cells)) for one in deciding)), default=None)
    needed = [one.needed() for one in cells]
    return None if None in needed else max(filter(None, needed))


def _strength(cell: _Judged, side: Side) -> float:
    """How far the whole interval lies on the claim's side. A larger number is stronger support."""
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
    """Return `value`, or None for NaN, which is the value of a cell without images."""
    return None if isinstance(value, float) and math.isnan(value) else value


def _turns(cells: Sequence[Measured]) -> dict[str, str]:
    """For trends: a message for each cell in which two neighbouring points clearly change in the other direction."""
    steps = [(one.name, pair, values) for one in cells for pair, values in one.steps]
    adjusted = significance.holm([significance.difference(values) for *_, values in steps])
    found: dict[str, str] = {}
    for (name, pair, values), p in zip(steps, adjusted, strict=True):
        if p < _LEVEL and bootstrap.interval_of_mean(values)[1] < 0:
            found.setdefault(
                name, f"between {pair} the rate changes in the other direction, by {-values.mean():.3g} (p {p:.2g})"
            )
    return found


def _one(name: str, counted: tuple[Sequence[str], Values], statement: Statement, turned: str = "") -> _Judged:
    values, bound, apart = counted[1], statement.bound, statement.side == "apart"
    if len(values) == 0:
        return _Judged(name, 0, math.nan, math.nan, math.nan, 1.0, False, False, bound)
    effect = float(values.mean())
    centre = math.copysign(bound, effect) if apart else bound
    if statement.rate:
        low, high = intervals.interval_of_rate(float(values.sum()), len(values))
        p = significance.binomial(float(values.sum()), len(values), bound)
    else:
        low, high = bootstrap.interval_of_mean(values)
        p = significance.difference(values, centre)
    beyond, short = _beyond(statement.side, bound, low, high)
    exact: Literal["binomial", "mcnemar", ""] = ""
    if statement.rate:
        exact, variance = "binomial", bound * (1 - bound)
    else:
        exact = "mcnemar" if significance.paired_outcomes(values, centre) else ""
        variance = float(((values - centre) ** 2).mean())
    return _Judged(name, len(values), effect, low, high, p, beyond, short, bound, turned, apart, variance, exact)


def _beyond(side: str, bound: float, low: float, high: float) -> tuple[bool, bool]:
    """Whether the whole interval lies on the claim's side of the bound, and whether it lies on the other side."""
    if side == "above":
        return low > bound, high < bound
    if side == "below":
        return high < bound, low > bound
    return low > bound or high < -bound, -bound < low and high < bound


def _pooled(cells: Sequence[Measured]) -> tuple[Sequence[str], Values]:
    """For each image, the mean over the cells that contain it."""
    sums: dict[str, list[float]] = {}
    for one in cells:
        for image, value in zip(one.images, one.values.tolist(), strict=True):
            sums.setdefault(image, []).append(value)
    ordered = sorted(sums)
    return ordered, np.array([math.fsum(sums[image]) / len(sums[image]) for image in ordered], dtype=np.float64)
