"""Input diversity (DI): a view that resizes the image to a random size and pads it at random."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from study.attacks.kinds import View, ViewContext
from study.attacks.registry import register
from study.attacks.resampling import Interpolation, taps
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
    version: ClassVar[int] = 2

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


@dataclass(frozen=True)
class Resizing:
    """How each of N images of the size `size` is resized, put into a frame, and resized back.

    Attributes:
        size: The size of the images.
        frame: The size of the frame.
        changed: Whether the image is changed at all, bool (N,).
        inner: The size to which the image is resized first, int64 (N,).
        top: The row of the frame at which the resized image begins, int64 (N,).
        left: The column of the frame at which it begins, int64 (N,).
        interpolation: The interpolation of the first resizing. That of the second one is bilinear.
        padding: The pixel value of the rest of the frame.
    """

    size: int
    frame: int
    changed: Tensor
    inner: Tensor
    top: Tensor
    left: Tensor
    interpolation: Interpolation
    padding: float


def diversify(image: Tensor, diversity: Diversity, words: Tensor) -> Tensor:
    """Resize and pad every image of a batch (N, C, S, S) at random, and resize the results back to S.

    Source: Xie et al. 2019 (arXiv:1803.06978). `words` (N, 4) are four random words for each image: the bits of
    unsigned integers, on the image's device. The result is differentiable in `image`.
    """
    from study.reproducibility.words import below, shares

    size = image.shape[-1]
    low, high = max(1, round(diversity.low * size)), round(diversity.high * size)
    frame = max(size, high)
    inner = low + below(words[:, 1], max(1, high - low))
    top, left = (below(words[:, place], frame - inner + 1) for place in (2, 3))
    changed = shares(words[:, 0]) < diversity.probability
    resizing = Resizing(size, frame, changed, inner, top, left, diversity.interpolation, diversity.padding)
    return by_interpolation(image, resizing) if is_host(image.device) else by_matrices(image, resizing)


def by_interpolation(image: Tensor, resizing: Resizing) -> Tensor:
    """Resize the images one after the other with torch's `interpolate`. On a CPU, this is the fastest way."""
    import torch
    from torch.nn import functional

    size, frame = resizing.size, resizing.frame
    corners = None if resizing.interpolation == "nearest" else False
    places = (one.tolist() for one in (resizing.changed, resizing.inner, resizing.top, resizing.left))
    found = []
    for one, changed, inner, top, left in zip(torch.split(image.contiguous(), 1), *places, strict=True):
        if not changed:
            found.append(one)
            continue
        small = functional.interpolate(one, (inner, inner), mode=resizing.interpolation, align_corners=corners)
        edges = (left, frame - inner - left, top, frame - inner - top)
        framed = functional.pad(small, edges, value=resizing.padding)
        found.append(functional.interpolate(framed, (size, size), mode="bilinear", align_corners=False))
    return torch.cat(found)


def by_matrices(image: Tensor, resizing: Resizing) -> Tensor:
    """Resize all images together, without waiting for the host.

    Resizing is linear along each axis, so each image is multiplied by one matrix from the left and by one matrix from
    the right. These products are deterministic on every device.
    """
    matrices = [_matrices(resizing, start) for start in (resizing.top, resizing.left)]
    rows, columns = (one.to(image.dtype)[:, None] for one in matrices)
    moved = rows @ image @ columns.transpose(-1, -2)
    if resizing.padding:
        down, across = (one.sum(2) for one in matrices)
        inside = (down[:, :, None] * across[:, None]).to(image.dtype)[:, None]
        moved = moved + resizing.padding * (1 - inside)
    return moved


def _matrices(resizing: Resizing, start: Tensor) -> Tensor:
    """Return the matrices (N, size, size), float64, that resize, pad and resize back along one axis.

    `start` (N,) is the position in the frame at which each resized image begins. An image that is not changed gets the
    identity matrix. Each row of a matrix has up to 2 nonzero numbers for "nearest", and up to 4 for "bilinear".
    """
    import torch

    size, inner, changed = resizing.size, resizing.inner, resizing.changed
    near, far, share = _back(resizing.frame, size, inner.device)
    # torch computes `size / tensor` as a product with the reciprocal, which rounds twice. So divide two tensors.
    inside = inner.to(torch.float64)
    ratio = (torch.full_like(inside, size) / inside)[:, None]
    nearest = torch.full_like(inside, size, dtype=torch.float32)[:, None] / inside.float()[:, None]
    found = torch.zeros(len(inner), size, size, dtype=torch.float64, device=inner.device)

    def add(column: Tensor, weight: Tensor) -> None:
        # Each call adds only one number to each row of a matrix, so the order of additions is fixed.
        found.scatter_add_(2, column.clamp(0, size - 1)[:, :, None], weight[:, :, None])

    for tap, weight in ((near, 1 - share), (far, share)):
        place = tap - start[:, None]
        part = weight * ((place >= 0) & (place < inner[:, None]) & changed[:, None])
        if resizing.interpolation == "nearest":
            # torch's `interpolate` finds the nearest pixel in float32, which sometimes is the pixel beside it.
            add((place.float() * nearest).long(), part)
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
