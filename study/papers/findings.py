"""Evaluates findings: decides whether the rows of a run support the claims that a spec takes from papers."""

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
"""The type of the columns `average`, `each` and `some` of FINDINGS: one reading of a finding."""

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
"""The columns of the result: one row for each finding. A finding claims that an effect is on the side `side` of
`bound`. The effect is a rate, a difference of rates, a difference of RMSDs, a change from the first to the last point
of a sequence, or a cosine.

The claim can be read in three ways. Each reading has a verdict, an effect with its 95 % interval, and a p-value:

- `average`: each image has its mean over the finding's cells, and the effect is the mean of all images;
- `each`: the claim must hold in every cell. `cell` is the cell that supports the claim least, and `p` is the p-value of
  the intersection-union test. If cells contradict the claim, `cell` is the clearest of them, and `p` has Holm's
  correction;
- `some`: the claim must hold in at least one cell. `cell` is the cell that supports the claim most clearly. `p` has
  Holm's correction, except if every cell contradicts the claim.

`holds` names the reading that the finding claims. `verdict`, `effect`, `low`, `high`, `p`, `needed` and `reason` are
those of this reading. `images` is the number of images of the average. `needed` is the estimated number of images that
would decide an undecided reading, if effects and spreads stay the same. It is null if the reading is decided, if rows
are missing, or if the effect equals the bound. `cells` has every cell, with its verdict under the claimed reading."""


@dataclass(frozen=True)
class _Judged:
    """The mean of a cell (or of all cells), compared with the bound of the claim. `p` is two-sided.

    `low` and `high` are the interval of the mean `effect`. `beyond` says whether the whole interval is on the claim's
    side of the bound, and `short` whether the whole interval is on the other side. If both are false, the interval
    contains the bound. `apart`: whether the claim is that the distance of the mean from 0 is more than `bound`.
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
    """For the check `monotone`: a message if the rate clearly changes in the other direction between two adjacent
    points. Otherwise empty."""
    apart: bool = False
    variance: float = math.nan
    """The variance of one image's value around the bound. For a rate: the variance if the true rate were `bound`."""
    exact: Literal["binomial", "mcnemar", ""] = ""
    """The exact test that gives `p`; empty if `p` is from another test."""

    def needed(self, level: float = _LEVEL) -> int | None:
        """Return the estimated number of images that would decide on which side of the bound the mean is.

        `level` is the significance level of the test. Return None if no estimate is possible.
        """
        gap = (abs(self.effect) if self.apart else self.effect) - self.bound
        # With fewer images, p cannot fall below the level, even if all images have the same outcome.
        fewest = 1 if self.exact == "binomial" else math.ceil(1 - math.log2(level))
        correction = {"binomial": 0.5, "mcnemar": 1.0, "": 0.0}[self.exact]
        return significance.images_needed(
            gap, self.variance, level, correction=correction, least=max(fewest, self.images + 1)
        )

    def holds(self, p: float) -> bool:
        """Return whether the mean supports the claim, if its p-value is `p`."""
        return self.beyond and p < _LEVEL and not self.turned

    def fails(self, p: float) -> bool:
        """Return whether the mean contradicts the claim, if its p-value is `p`.

        For a claim with the side `apart`, the interval alone decides.
        """
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
    """Return the verdict on every finding of `spec`, from the rows of a run. The columns are those of FINDINGS.

    A cell supports a claim if two conditions hold. The whole 95 % interval of its mean is on the claim's side of the
    bound, and the test of the bound has p < 0.05. A cell contradicts the claim if the interval is on the other side,
    and p < 0.05; for the side `apart`, the interval alone decides. In the check `monotone`, a cell whose rate clearly
    changes in the other direction contradicts the claim too. In all other cases the cell is undecided.

    - A claim about every cell is replicated if every cell supports the claim. The number of cells needs no correction
      here (intersection-union test, Berger 1982). All cells must support the claim, so more cells do not make a wrong
      "replicated" more likely. The claim is not replicated if at least one cell contradicts it after Holm's correction
      over the cells.
    - A claim about some cell is replicated if at least one cell supports it after Holm's correction. It is not
      replicated if every cell contradicts it.

    A finding is also undecided if rows are missing. `images`: the number of images in a complete cell; None for the
    number of images in `rows`. `geometry`: the rows of the run's gradient-cosine probes.

    The interval of a rate is Wilson's. Other intervals are percentile bootstrap intervals over images. The test of a
    rate is the exact binomial test. Differences of two 0/1 outcomes have McNemar's exact test. All other tests are
    sign-flip tests over images. Raises StudyError if a selection of a finding contains no planned cell.
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
    """Return two p-values of a cell: one for the test whether it supports the claim, one whether it contradicts it.

    One of them has Holm's correction; `evaluate` explains which one. `corrected`: the p-value with this correction.
    """
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
    # Do not use `turned` here: a trend that reverses in one cell can still be a trend of the mean over cells.
    verdict, reason = whole.verdict(whole.p, whole.p), whole.reason(whole.p, whole.p)
    return _reading(verdict, reason, whole, whole.p, cell=False, needed=whole.needed())


def _corrected(cells: Sequence[_Judged], side: Side) -> list[float]:
    """Return the cells' p-values after Holm's correction over all cells.

    Cells whose effect is on the claim's side are corrected separately from the other cells. In each of the two
    corrections, the cells of the other group count with p = 1. Otherwise a small p-value in one group would weaken the
    correction in the other group.
    """
    bearing = significance.holm([one.p if _on_side(one, side) else 1.0 for one in cells])
    against = significance.holm([1.0 if _on_side(one, side) else one.p for one in cells])
    return [b if _on_side(one, side) else a for one, b, a in zip(cells, bearing, against, strict=True)]


def _each(cells: Sequence[_Judged], holm: Sequence[float], side: Side) -> dict[str, object]:
    """Return the reading `each`: the claim must hold in every cell.

    If a cell contradicts the claim, the p-value is that of this cell, with Holm's correction. Otherwise it is 1 if the
    effect of some cell is not on the claim's side, and else the largest p-value of the cells.
    """
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
    """Return the reading `some`: the claim must hold in at least one cell.

    Its p-value is the smallest corrected p-value of the cells on the claim's side. If all cells contradict the claim,
    the p-value is the largest p-value of a cell.
    """
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
    """Return the estimated number of images that would decide an undecided claim; None if it cannot be estimated.

    `every`: whether the claim is about every cell; otherwise the claim is about some cell. One cell whose effect is not
    on the claim's side can refute a claim about every cell. One cell whose effect is on the claim's side can support a
    claim about some cell. If there are such cells, the result is the number for the one that needs the fewest images,
    after Holm's correction over all cells. Otherwise all cells must be decided, and the result is the largest number of
    any cell.
    """
    deciding = [one for one in cells if _on_side(one, side) != every]
    if deciding:
        return min(filter(None, (one.needed(_LEVEL / len(cells)) for one in deciding)), default=None)
    needed = [one.needed() for one in cells]
    return None if None in needed else max(filter(None, needed))


def _strength(cell: _Judged, side: Side) -> float:
    """Return how strongly a cell supports the claim. The number grows as the interval moves to the claim's side."""
    if side == "above":
        return cell.low
    if side == "below":
        return -cell.high
    return max(cell.low, -cell.high)


def _on_side(cell: _Judged, side: Side) -> bool:
    """Return whether the effect is on the claim's side of the bound."""
    if side == "above":
        return cell.effect > cell.bound
    if side == "below":
        return cell.effect < cell.bound
    return abs(cell.effect) > cell.bound


def _known(value: object) -> object:
    """Return `value`, or None if it is NaN. Cells without images have NaN."""
    return None if isinstance(value, float) and math.isnan(value) else value


def _turns(cells: Sequence[Measured]) -> dict[str, str]:
    """Return a message for each cell of a `monotone` check whose rate clearly changes in the other direction somewhere.

    The messages are by name of the cell. The change must occur between two adjacent points, and be significant after
    Holm's correction.
    """
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
    """Return whether the whole interval is on the claim's side of the bound, and whether it is on the other side."""
    if side == "above":
        return low > bound, high < bound
    if side == "below":
        return high < bound, low > bound
    return low > bound or high < -bound, -bound < low and high < bound


def _pooled(cells: Sequence[Measured]) -> tuple[Sequence[str], Values]:
    """Return the ids of all images, sorted, and for each image the mean of its values over the cells that have it."""
    sums: dict[str, list[float]] = {}
    for one in cells:
        for image, value in zip(one.images, one.values.tolist(), strict=True):
            sums.setdefault(image, []).append(value)
    ordered = sorted(sums)
    return ordered, np.array([math.fsum(sums[image]) / len(sums[image]) for image in ordered], dtype=np.float64)
