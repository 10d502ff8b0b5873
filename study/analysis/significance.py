"""Hypothesis tests that compare two attacks on the same images, or a rate with a number.

Images are the independent samples. All p-values are two-sided.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from study.analysis.intervals import normal_quantile

Values = NDArray[np.float64]
"""An array (N,) with one value for each of N images."""

_EXACT = 12
_FLIPS = 10_000
_AT_ONCE = 500


def binomial(hits: float, images: int, share: float) -> float:
    """Return the p-value of the exact binomial test of the hypothesis that the true rate is `share` (0..1).

    The p-value is twice the smaller tail, at most 1. It is 1 if `images` is 0. `hits` may be fractional if images have
    rows of several seeds. Fractional hits are rounded towards the expected count, which makes the p-value larger. The
    test is then conservative, because means over seeds vary less than binomial hits.
    """
    if images == 0:
        return 1.0
    expected = share * images
    near = round(hits)
    whole = near if math.isclose(near, hits, abs_tol=1e-9) else math.ceil(hits) if hits < expected else math.floor(hits)
    chances = [_chance(count, images, share) for count in range(images + 1)]
    return min(1.0, 2 * min(math.fsum(chances[: whole + 1]), math.fsum(chances[whole:])))


def mcnemar(only_first: int, only_second: int) -> float:
    """Return the p-value of McNemar's exact test (1947).

    `only_first` and `only_second` are the numbers of images on which only one of two attacks succeeds.
    """
    return binomial(only_first, only_first + only_second, 0.5)


def sign_flips(values: Values, centre: float = 0.0, *, seed: int = 0) -> float:
    """Return the p-value of the sign-flip permutation test of the hypothesis that the mean of `values` is `centre`.

    `values` has one value per image. For up to twelve images, the test uses all 2^N combinations of signs. For more
    images, it uses the observed signs and 10,000 random combinations, drawn with `seed`. The p-value is 1 without
    images.
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


def paired_outcomes(values: Values, centre: float = 0.0) -> bool:
    """Return whether McNemar's test applies: `centre` is 0, and all `values` are differences of 0/1 outcomes.

    Such differences are -1, 0 or 1.
    """
    return centre == 0 and bool(np.isin(values, (-1.0, 0.0, 1.0)).all())


def difference(values: Values, centre: float = 0.0) -> float:
    """Return the p-value of the hypothesis that the mean of the paired differences `values` is `centre`.

    The test is McNemar's if `paired_outcomes` is true, and otherwise the sign-flip test.
    """
    if paired_outcomes(values, centre):
        return mcnemar(int((values > 0).sum()), int((values < 0).sum()))
    return sign_flips(values, centre)


def images_needed(
    gap: float, variance: float, level: float = 0.05, *, correction: float = 0.0, least: int = 1
) -> int | None:
    """Return the estimated number of images with which a test decides whether a mean is above or below a bound.

    `gap`: the distance of the mean from the bound. `variance`: the variance of one image's value around the bound. Both
    are assumed to stay the same with more images. `level`: the significance level of the two-sided test.
    `correction`: a continuity correction, because the p-values of an exact test change in steps. `least`: the smallest
    number that is returned. The result n solves `gap * n - correction = z * sqrt(variance * n)`, the normal
    approximation of the test, where z is the normal quantile for `level`. The result is None if `gap` is 0 or a number
    is NaN.
    """
    gap = abs(gap)
    if gap == 0 or math.isnan(gap) or math.isnan(variance):
        return None
    z = normal_quantile(1 - level)
    root = (z * math.sqrt(variance) + math.sqrt(z * z * variance + 4 * gap * correction)) / (2 * gap)
    return max(least, math.ceil(root * root))


def holm(values: Sequence[float]) -> list[float]:
    """Return the p-values `values`, corrected for multiple tests by Holm's method (1979), in the same order."""
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
