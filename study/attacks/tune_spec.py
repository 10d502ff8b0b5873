"""Hyperparameters of attacks that a study tunes itself, on images that its tables do not use."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from study.spec.frozen import Frozen

Number = Annotated[float, Field(allow_inf_nan=False)] | int
Values = Annotated[tuple[Number, ...], Field(strict=False, min_length=2)]


class Tune(Frozen):
    """Tune numeric parameters of an attack on images that the study does not use otherwise.

    `over` has the candidate values of each parameter, by the key of the parameter, such as `smoothing.sigma` or
    `views.ssa.sigma`. Every combination of values is tried. `images` is the number of images for tuning: the last
    images in the study's order of images. The study chooses the combination with the highest mean black-box success
    over the attack's experiments. If several combinations have the same success, it chooses the first.
    """

    over: Annotated[dict[str, Values], Field(min_length=1)]
    images: Annotated[int, Field(ge=1)] = 200
    by: Literal["mean black-box success"] = "mean black-box success"

    def choices(self) -> Iterator[dict[str, float]]:
        """Yield every combination of values, by the key of the parameter."""
        for values in itertools.product(*self.over.values()):
            yield dict(zip(self.over, values, strict=True))
