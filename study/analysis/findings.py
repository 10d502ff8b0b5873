"""Whether a run's rows bear out what a spec's findings claim."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import polars as pl

from study.analysis import paired
from study.analysis._statements import Measured, Reader, Statement, measure
from study.analysis.paired import Values
from study.errors import StudyError
from study.findings.spec import Holds
from study.spec import Spec

Verdict = Literal["replicated", "not replicated", "undecided"]

_LEVEL = 0.05
_CELL = {"cell": pl.String, "images": pl.UInt32, "effect": pl.Float64, "low": pl.Float64, "high": pl.Float64}
CELLS = pl.Struct({**_CELL, "p": pl.Float64, "holm": pl.Float64, "verdict": pl.String, "reason": pl.String})

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
        "cells": pl.List(CELLS),
    }
)
"""One row for each finding. `effect` is the mean over images of the mean over its cells, with its interval: a rate, a
difference of rates, an RMSD saved, a change from the first to the last, or a cosine. The claim says that it lies on
this `side` of `bound`. `p` is what decides: of the average, or the largest (`holds: each`) or smallest (`some`) of the
cells' after Holm's correction. `reason` says why the verdict is what it is; `cells` has each of them."""


@dataclass(frozen=True)
class _Judged:
    """One mean held against its bound."""

    name: str
    images: int
    effect: float
    low: float
    high: float
    p: float
    holds: bool
    fails: bool
    reason: str

    @property
    def verdict(self) -> Verdict:
        return "replicated" if self.holds else "not replicated" if self.fails else "undecided"


def evaluate(
    rows: pl.LazyFrame,
    spec: Spec,
    *,
    images: int | None = None,
    geometry: pl.LazyFrame | None = None,
) -> pl.DataFrame:
    """Every finding of `spec` held against `rows`: a frame with the columns of FINDINGS, in the spec's order.

    A cell bears its finding out where the 95 % interval of the mean lies beyond the bound and the test of that bound,
    after Holm's correction over the finding's cells, has p below 0.05; it speaks against it where both say the
    opposite; else it is undecided. A finding is undecided as well where rows are missing: of `images` selected ones,
    or, unless given, of those that any row is of. `geometry` are the rows of the run's gradient-cosine probes.

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
    cells = _judged_cells(statement)
    whole = _one("all", _pooled(statement.cells), statement)
    verdict, reason, p = _verdict(cells, whole, holds)
    if statement.missing:
        verdict, reason = "undecided", "; ".join(statement.missing)
    details = [
        {
            "cell": one.name,
            "images": one.images,
            "effect": one.effect,
            "low": one.low,
            "high": one.high,
            "p": raw,
            "holm": one.p,
            "verdict": one.verdict,
            "reason": one.reason,
        }
        for one, raw in cells
    ]
    numbers = {"effect": whole.effect, "low": whole.low, "high": whole.high, "p": p}
    return {
        "verdict": verdict,
        "side": statement.side,
        "bound": statement.bound,
        **{name: _known(number) for name, number in numbers.items()},
        "images": whole.images,
        "reason": reason,
        "cells": [{key: _known(value) for key, value in one.items()} for one in details],
    }


def _known(value: object) -> object:
    """Null for a number that nothing counts towards."""
    return None if isinstance(value, float) and math.isnan(value) else value


def _judged_cells(statement: Statement) -> list[tuple[_Judged, float]]:
    """The cells, judged by their p-values after Holm's correction, and the p-values before it."""
    alone = [_one(one.name, (one.images, one.values), statement) for one in statement.cells]
    adjusted = paired.holm([one.p for one in alone])
    again = [
        _one(one.name, (one.images, one.values), statement, p) for one, p in zip(statement.cells, adjusted, strict=True)
    ]
    turned = _turns(statement.cells)
    judged = [
        _Judged(one.name, one.images, one.effect, one.low, one.high, one.p, False, True, turned[one.name])
        if one.name in turned
        else one
        for one in again
    ]
    return list(zip(judged, (one.p for one in alone), strict=True))


def _turns(cells: Sequence[Measured]) -> dict[str, str]:
    """Of trends: the cells in which two neighbours clearly go the other way."""
    steps = [(one.name, pair, values) for one in cells for pair, values in one.steps]
    adjusted = paired.holm([paired.difference(values) for *_, values in steps])
    found: dict[str, str] = {}
    for (name, pair, values), p in zip(steps, adjusted, strict=True):
        if p < _LEVEL and paired.interval_of_mean(values)[1] < 0:
            found.setdefault(name, f"{pair} go the other way, by {-values.mean():.3g} (p {p:.2g})")
    return found


def _one(
    name: str, counted: tuple[Sequence[str], Values], statement: Statement, corrected: float | None = None
) -> _Judged:
    values, bound = counted[1], statement.bound
    if len(values) == 0:
        return _Judged(name, 0, math.nan, math.nan, math.nan, 1.0, False, False, "no image counts")
    effect = float(values.mean())
    if statement.rate:
        low, high = paired.interval_of_rate(float(values.sum()), len(values))
        p = paired.binomial(float(values.sum()), len(values), bound)
    else:
        low, high = paired.interval_of_mean(values)
        p = paired.difference(values, math.copysign(bound, effect) if statement.side == "apart" else bound)
    if corrected is not None:
        p = corrected
    beyond, short = _beyond(statement.side, bound, low, high)
    clear = p < _LEVEL
    fails = short and (clear or statement.side == "apart")
    if beyond and not clear:
        reason = f"the interval is beyond {bound:g}, but p is {p:.2g}"
    elif not beyond and not short:
        reason = f"the interval {low:.3g} to {high:.3g} includes {bound:g}"
    elif short and not fails:
        reason = f"the interval speaks against it, but p is {p:.2g}"
    else:
        reason = f"{effect:.3g}, {low:.3g} to {high:.3g}, p {p:.2g}"
    return _Judged(name, len(values), effect, low, high, p, beyond and clear, fails, reason)


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


def _verdict(cells: Sequence[tuple[_Judged, float]], whole: _Judged, holds: Holds) -> tuple[Verdict, str, float]:
    judged = [one for one, _ in cells]
    if not judged:
        return "undecided", "no cell has an image that counts", math.nan
    if holds == "average":
        return whole.verdict, whole.reason, whole.p
    kinds: dict[Verdict, list[_Judged]] = {"replicated": [], "not replicated": [], "undecided": []}
    for one in judged:
        kinds[one.verdict].append(one)
    first: Verdict = "not replicated" if holds == "each" else "replicated"
    undecided: Verdict = "undecided"
    otherwise: Verdict = "replicated" if holds == "each" else "not replicated"
    p = (max if holds == "each" else min)(one.p for one in judged)
    counts = [len(kinds[kind]) for kind in ("replicated", "not replicated")]
    reason = f"{counts[0]} of {len(judged)} cells bear it out, {counts[1]} speak against it"
    for kind in (first, undecided):
        if kinds[kind]:
            example = kinds[kind][0]
            return kind, f"{reason}: {example.name}: {example.reason}", p
    return otherwise, reason, p
