"""Input diversity, DI: the image resized and padded at random."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar

import numpy as np
from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from study.attacks.kinds import View, ViewContext
from study.attacks.registry import register
from study.attacks.resampling import Interpolation, resized, taps
from study.devices.copies import is_host, uploaded
from study.devices.tables import kept

if TYPE_CHECKING:
    import torch
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
        return diversify(image, self, given.draws.words(4))


def diversify(image: Tensor, diversity: Diversity, words: Tensor) -> Tensor:
    """Resize and pad every image of a batch (N, C, S, S) by its own four random `words` (N, 4), and resize back to S.

    Xie et al. 2019 (arXiv:1803.06978). Resizing is linear along each axis: each image is multiplied by one matrix from
    the left and by one matrix from the right. This handles a whole batch at once and is deterministic on every device.
    `words` hold the bits of unsigned integers, on the image's device.
    """
    from study.reproducibility.words import below, shares

    size = image.shape[-1]
    low, high = round(diversity.low * size), round(diversity.high * size)
    frame = max(size, high)
    changed = shares(words[:, 0]) < diversity.probability
    inner = low + below(words[:, 1], max(1, high - low))
    starts = [below(words[:, place], frame - inner + 1) for place in (2, 3)]
    if diversity.interpolation == "bilinear" and is_host(image.device):
        matrices = [_by_products((size, frame), changed, inner, start) for start in starts]
    else:
        matrices = [_by_taps((size, frame), changed, inner, start, diversity.interpolation) for start in starts]
    rows, columns = (one.to(image.dtype)[:, None] for one in matrices)
    moved = rows @ image @ columns.transpose(-1, -2)
    if diversity.padding:
        down, across = (one.sum(2) for one in matrices)
        inside = (down[:, :, None] * across[:, None]).to(image.dtype)[:, None]
        moved = moved + diversity.padding * (1 - inside)
    return moved


def _by_taps(
    sizes: tuple[int, int], changed: Tensor, inner: Tensor, start: Tensor, interpolation: Interpolation
) -> Tensor:
    """The matrices (N, size, size) of one axis, float64. A row has up to 2 nonzero numbers; for "bilinear", up to 4.

    `sizes` are the sizes of the image and of the frame. Each image is resized to `inner` (N,) and put at `start` (N,)
    of the frame; the frame is resized back (bilinear). An image that is not `changed` (N,) gets the identity matrix.
    """
    import torch

    size, frame = sizes
    near, far, share = _back(frame, size, inner.device)
    # `size / tensor` would be a product with the reciprocal, which rounds twice.
    inside = inner.to(torch.float64)
    ratio = (torch.full_like(inside, size) / inside)[:, None]
    found = torch.zeros(len(inner), size, size, dtype=torch.float64, device=inner.device)

    def add(column: Tensor, weight: Tensor) -> None:
        # Each call adds one number to each row, so the order of additions is fixed.
        found.scatter_add_(2, column.clamp(0, size - 1)[:, :, None], weight[:, :, None])

    for tap, weight in ((near, 1 - share), (far, share)):
        place = tap - start[:, None]
        part = weight * ((place >= 0) & (place < inner[:, None]) & changed[:, None])
        if interpolation == "nearest":
            add((place * ratio).long(), part)
            continue
        centre = ((place + 0.5) * ratio - 0.5).clamp(min=0)
        below = centre.long().clamp(max=size - 1)
        add(below, part * (1 - (centre - below)))
        add(below + 1, part * (centre - below))
    found.diagonal(dim1=1, dim2=2).add_((~changed)[:, None])
    return found


@kept
def _back(frame: int, size: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """For each pixel, the two positions in the frame that are mixed, and the weight of the second position."""
    below, above, share = taps(frame, size)
    return uploaded(below, device), uploaded(above, device), uploaded(share, device)


def _by_products(sizes: tuple[int, int], changed: Tensor, inner: Tensor, start: Tensor) -> Tensor:
    """The matrices of `_by_taps` for "bilinear", as products of two matrices. Their last bits may differ."""
    size, frame = sizes
    back = resized(frame, size, "bilinear")
    found = [
        back[:, first : first + length] @ resized(size, length, "bilinear") if moves else np.eye(size)
        for moves, length, first in zip(changed.tolist(), inner.tolist(), start.tolist(), strict=True)
    ]
    return uploaded(np.stack(found), "cpu")
