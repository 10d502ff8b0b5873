"""Input diversity, DI: the image resized and padded at random."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from study.attacks.kinds import View, ViewContext
from study.attacks.registry import register
from study.attacks.resampling import Interpolation, resized

if TYPE_CHECKING:
    from torch import Tensor


@register
class Diversity(View):
    """Input diversity, DI (Xie et al. 2019, arXiv:1803.06978).

    With `probability`, the image is resized to a random size between `low` and `high` times its own, and put at a
    random place of a frame filled with `padding` (a pixel value). The frame has `high` times the image's size, but at
    least the image's size, and is resized back (bilinear). Xie et al. use sizes 299 to 330 for images of 299.
    """

    name: ClassVar[str] = "diversity"

    probability: Annotated[float, Field(ge=0, le=1)] = 0.5
    low: Annotated[float, Field(gt=0, le=4)] = 1.0
    high: Annotated[float, Field(gt=0, le=4)] = 330 / 299
    interpolation: Interpolation = "nearest"
    padding: Annotated[float, Field(ge=0, le=255)] = 0.0

    @model_validator(mode="after")
    def _ordered(self) -> Diversity:
        if self.low > self.high:
            raise PydanticCustomError("parts", "`low` of the diversity is above its `high`")
        return self

    def make(self, image: Tensor, given: ViewContext) -> Tensor:
        return diversify(image, self, given.draws.integers(4))


def diversify(image: Tensor, diversity: Diversity, words: NDArray[np.uint64]) -> Tensor:
    """Resize and pad every image of a batch (N, C, S, S) by its own four random `words` (N, 4), and resize back to S.

    Xie et al. 2019 (arXiv:1803.06978). Resizing is linear along each axis: each image is multiplied by one matrix from
    the left and one from the right. This handles a whole batch at once and is deterministic on every device.
    """
    import torch

    size = image.shape[-1]
    frame = max(size, round(diversity.high * size))
    back = resized(frame, size, "bilinear")
    rows, columns, covered = [], [], []
    for chance, extent, top, left in words.tolist():
        if chance / 2**64 >= diversity.probability:
            rows.append(np.eye(size))
            columns.append(np.eye(size))
            covered.append((np.ones(size), np.ones(size)))
            continue
        low, high = round(diversity.low * size), round(diversity.high * size)
        inner = low + extent % max(1, high - low)
        resize = resized(size, inner, diversity.interpolation)
        matrices = []
        for word in (top, left):
            start = word % (frame - inner + 1)
            matrices.append(back[:, start : start + inner] @ resize)
        rows.append(matrices[0])
        columns.append(matrices[1])
        covered.append((matrices[0].sum(1), matrices[1].sum(1)))

    def tensor(values: Sequence[NDArray[np.float64]]) -> Tensor:
        return torch.from_numpy(np.stack(values)).to(image.device, image.dtype)[:, None]

    moved = tensor(rows) @ image @ tensor(columns).transpose(-1, -2)
    if diversity.padding:
        inside = tensor([np.outer(*one) for one in covered])
        moved = moved + diversity.padding * (1 - inside)
    return moved
