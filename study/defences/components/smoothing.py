"""Randomized smoothing: a defence in which the target votes on noisy copies of each image."""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING, Annotated, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from study.attacks.registry import register
from study.defences.kinds import DefenceContext, Vote

if TYPE_CHECKING:
    from torch import Tensor


@register
class RandomizedSmoothing(Vote):
    """Randomized smoothing (PREDICT of Cohen et al. 2019, arXiv:1902.02918): the target votes on noisy copies.

    Each image gets `draws` copies, each with its own Gaussian noise of standard deviation `sigma` in pixel values. The
    paper's sigma of 0.25 is 63.75 here. Noisy copies are neither clipped nor rounded. The answer for the image is the
    label with the most votes.

    A two-sided binomial test with the significance level `alpha` compares the votes for the two most frequent labels.
    The target abstains if the test does not distinguish these labels. With `alpha: 0`, the target never abstains. An
    abstention counts as a wrong answer, for clean images too.
    """

    name: ClassVar[str] = "smoothing"
    main: ClassVar[str | None] = "sigma"

    sigma: Annotated[float, Field(gt=0, le=1000)] = 63.75
    draws: Annotated[int, Field(ge=1, le=100_000)] = 100
    alpha: Annotated[float, Field(ge=0, le=1)] = 0.001

    @property
    def versions(self) -> int:
        return self.draws

    def made(self, images: Tensor, given: DefenceContext, number: int) -> Tensor:
        return images + self.sigma * given.draws(number).normal(images.shape[1:])

    def abstains(self, counts: NDArray[np.int64]) -> NDArray[np.bool_]:
        if self.alpha == 0:
            return super().abstains(counts)
        second, first = np.sort(counts, axis=1)[:, -2:].T
        pairs = zip(first.tolist(), second.tolist(), strict=True)
        return np.array([two_sided(most, next_) > self.alpha for most, next_ in pairs], dtype=np.bool_)


@functools.cache
def two_sided(most: int, least: int) -> float:
    """Return the p-value of the exact two-sided binomial test that two labels are equally likely.

    `most` and `least` are the numbers of votes for the two labels, with most >= least.
    """
    trials = most + least
    # The terms are integers, because the rounding of a sum of floats would depend on the order of the terms.
    tail = sum(math.comb(trials, count) for count in range(most, trials + 1))
    return float(min(1.0, 2 * tail / 2**trials))
