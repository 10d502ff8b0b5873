"""The staircase sign: each pixel's step depends on the rank of its gradient."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar

import numpy as np
from pydantic import Field

from study.attacks.kinds import State, Step, StepContext
from study.attacks.registry import register
from study.devices.copies import uploaded

if TYPE_CHECKING:
    from torch import Tensor


@register
class StaircaseSign(Step):
    """The staircase sign: sign(g) (2 j + 1) / stairs, where j = 0, 1, ... is the class of |g|, from small to large.

    Gao et al. 2021, arXiv:2104.09722. g is the gradient. The values |g| in each channel of each image are divided into
    `stairs` classes. The classes end at the percentiles 100 / stairs, 200 / stairs, ... of |g|, as in the authors'
    code. If a percentile falls between two values of |g|, the lower one is taken. The mean of the factors
    (2 j + 1) / stairs is 1. The authors give the width of a class in percent: their 1.5625 means 64 stairs.
    """

    name: ClassVar[str] = "staircase"
    main: ClassVar[str | None] = "stairs"

    stairs: Annotated[int, Field(ge=1, le=1000)] = 64

    def direction(self, gradient: Tensor, step: StepContext, state: State) -> Tensor:
        import torch

        size = gradient.abs().flatten(2).contiguous()
        count = size.shape[-1]
        ranks = [(number * (count - 1)) // self.stairs for number in range(1, self.stairs + 1)]
        ends = size.sort(dim=-1).values.index_select(-1, uploaded(np.array(ranks), size.device))
        # The index of a value's class is the number of classes that end below the value.
        classes = torch.searchsorted(ends, size).clamp(max=self.stairs - 1)
        weights = (2 * classes + 1).to(gradient.dtype) / self.stairs
        return weights.view_as(gradient) * gradient.sign()
