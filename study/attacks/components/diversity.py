"""Input diversity (DI): a view that resizes the image to a random size and pads it at random."""

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
    """Input diversity (DI): with `probability`, the image is resized and padded at random, and then resized back.

    Source: Xie et al. 2019, arXiv:1803.06978. The image is resized to a random size between `low` and `high` times its
    own size. The resized image is put at a random place of a frame. The rest of the frame is filled with `padding` (a
    pixel value). The size of the frame is `high` times the size of the image, but at least the size of the image. Last,
    the frame is resized back to the size of the image (bilinear). `interpolation` is that of the first resizing. Xie et
    al. use sizes from 299 to 330 for images of size 299.
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
    """Resize and pad every image of a batch (N, C, S, S) at random, and resize the results back to S.

    Source: Xie et al. 2019 (arXiv:1803.06978). `words` (N, 4) are four random words for each image: the bits of
    unsigned integers, on the image's device. Resizing is linear along each axis, so each image is multiplied by one
    matrix from the left and by one matrix from the right. These products treat a whole batch at once, and are
    deterministic on every device.
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
    """Return the matrices (N, size, size), float64, that resize, pad and resize back along one axis.

    `sizes` are the sizes of the image and of the frame. Each image is resized to `inner` (N,) pixels by
    `interpolation`, and put at pixel `start` (N,) of the frame. The frame is resized back (bilinear). An image whose
    `changed` (N,) is false gets the identity matrix. Each row of a matrix has up to 2 nonzero numbers for "nearest",
    and up to 4 for "bilinear".
    """
    import torch

    size, frame = sizes
    near, far, share = _back(frame, size, inner.device)
    # torch computes `size / tensor` as a product with the reciprocal, which rounds twice. So divide two tensors.
    inside = inner.to(torch.float64)
    ratio = (torch.full_like(inside, size) / inside)[:, None]
    found = torch.zeros(len(inner), size, size, dtype=torch.float64, device=inner.device)

    def add(column: Tensor, weight: Tensor) -> None:
        # Each call adds only one number to each row of a matrix, so the order of additions is fixed.
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
    """Return two positions in the frame for each pixel of the image, and the weight of the second position.

    When the frame is resized back, the pixel becomes the weighted mean of the values at these positions. All three
    tensors are (size,).
    """
    below, above, share = taps(frame, size)
    return uploaded(below, device), uploaded(above, device), uploaded(share, device)


def _by_products(sizes: tuple[int, int], changed: Tensor, inner: Tensor, start: Tensor) -> Tensor:
    """Return the matrices of `_by_taps` for "bilinear", computed on a CPU as products of two matrices.

    The last bits of the numbers may differ from those of `_by_taps`.
    """
    size, frame = sizes
    back = resized(frame, size, "bilinear")
    found = [
        back[:, first : first + length] @ resized(size, length, "bilinear") if moves else np.eye(size)
        for moves, length, first in zip(changed.tolist(), inner.tolist(), start.tolist(), strict=True)
    ]
    return uploaded(np.stack(found), "cpu")
