"""Tests over images: what is known of each image under two attacks, or of its success against a number.

Images are what is independent. All p-values are two-sided.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from study.analysis.bootstrap import _multiplicities
from study.analysis.intervals import normal_quantile

Values = NDArray[np.float64]

_EXACT = 12
_FLIPS = 10_000
_AT_ONCE = 500


def binomial(hits: float, images: int, share: float) -> float:
    """Exact binomial test that the true rate is `share` (0..1): twice the smaller tail, 1 at most.

    Where images have several seeds `hits` is no whole number: it is rounded towards what `share` expects, which makes
    the p-value larger. Their hits vary less than a coin's, so that the test errs on the safe side.
    """
    if images == 0:
        return 1.0
    expected = share * images
    near = round(hits)
    whole = near if math.isclose(near, hits, abs_tol=1e-9) else math.ceil(hits) if hits < expected else math.floor(hits)
    chances = [_chance(count, images, share) for count in range(images + 1)]
    return min(1.0, 2 * min(math.fsum(chances[: whole + 1]), math.fsum(chances[whole:])))


def mcnemar(only_first: int, only_second: int) -> float:
    """McNemar's exact test (1947): of the images on which just one of two attacks succeeds, how many each takes."""
    return binomial(only_first, only_first + only_second, 0.5)


def sign_flips(values: Values, centre: float = 0.0, *, seed: int = 0) -> float:
    """Sign-flip permutation test that the mean of `values` (N,), one of each image, is `centre`.

    All 2^N flips up to twelve images, else 10,000 drawn from `seed`, with the flip that was seen among them.
    """
    moved = values - centre
    seen = abs(float(moved.sum())) * (1 - 1e-12)
    if len(moved) == 0:
        return 1.0
    if len(moved) <= _EXACT:
        signs = np.array(list(itertools.product((-1.0, 1.0), repeat=len(moved))))
        return float((np.abs(signs @ moved) >= seen).mean())
    generator, more = np.random.default_rng(seed), 0
    for start in range(0, _FLIPS, _AT_ONCE):
        count = min(_AT_ONCE, _FLIPS - start)
        signs = generator.integers(0, 2, (count, len(moved)), dtype=np.int8) * 2.0 - 1.0
        more += int((np.abs(signs @ moved) >= seen).sum())
    return (more + 1) / (_FLIPS + 1)


def difference(values: Values, centre: float = 0.0) -> float:
    """The paired test of differences (N,): McNemar's where all are -1, 0 or 1 and `centre` is 0, else sign flips."""
    if centre == 0 and np.isin(values, (-1.0, 0.0, 1.0)).all():
        return mcnemar(int((values > 0).sum()), int((values < 0).sum()))
    return sign_flips(values, centre)


def interval_of_mean(
    values: Values, *, draws: int = 2000, seed: int = 0, confidence: float = 0.95
) -> tuple[float, float]:
    """The percentile bootstrap interval of the mean of `values` (N,), one of each image, in the images' order."""
    if len(values) == 0:
        return math.nan, math.nan
    means = np.concatenate([times @ values for times in _multiplicities(len(values), draws, seed)]) / len(values)
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def interval_of_rate(hits: float, images: int, *, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's interval (1927) of `hits`, perhaps no whole number, among `images`."""
    if images == 0:
        return math.nan, math.nan
    z = normal_quantile(confidence)
    centre = (hits + z * z / 2) / (images + z * z)
    half = z * math.sqrt(max(0.0, hits * (images - hits)) / images + z * z / 4) / (images + z * z)
    return (0.0 if hits <= 0 else centre - half), (1.0 if hits >= images else centre + half)


def holm(values: Sequence[float]) -> list[float]:
    """p-values adjusted for their number (Holm 1979), in the order given."""
    adjusted, most = [0.0] * len(values), 0.0
    for rank, place in enumerate(sorted(range(len(values)), key=lambda at: values[at])):
        most = max(most, min(1.0, (len(values) - rank) * values[place]))
        adjusted[place] = most
    return adjusted


def _chance(count: int, images: int, share: float) -> float:
    if share in (0.0, 1.0):
        return float(count == images * share)
    log = math.lgamma(images + 1) - math.lgamma(count + 1) - math.lgamma(images - count + 1)
    return math.exp(log + count * math.log(share) + (images - count) * math.log1p(-share))
