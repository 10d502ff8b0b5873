"""Random crops: a view that resizes a random part of the image to the size of the whole image."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from study.attacks.kinds import View, ViewContext
from study.attacks.registry import register

if TYPE_CHECKING:
    from torch import Tensor

Area = Annotated[float, Field(gt=0, le=1)]


@register
class Crop(View):
    """A crop at a random place, with a random share of the image's area from `low` to `high`, resized back (bilinear).

    Source: M-Attack (Li et al. 2025, arXiv:2503.10635), which uses `RandomResizedCrop` of torchvision. The longer side
    of a crop is up to `ratio` times as long as the shorter side. This ratio of sides is uniform in 1..`ratio`. The
    longer side is the width or the height, with probability 1/2 each. In torchvision, the logarithm of width / height
    is uniform instead. A side that would be longer than the image gets the length of the image. torchvision draws again
    in this case.
    """

    name: ClassVar[str] = "crop"

    low: Area = 0.5
    high: Area = 0.9
    ratio: Annotated[float, Field(ge=1, le=10)] = 4 / 3

    @model_validator(mode="after")
    def _ordered(self) -> Crop:
        if self.low > self.high:
            raise PydanticCustomError("parts", "`low` of the crop is above its `high`")
        return self

    def make(self, image: Tensor, given: ViewContext) -> Tensor:
        rows, columns = (
            _matrices(image.shape[-1], length, start).to(image.dtype)[:, None]
            for length, start in self.sides(image.shape[-1], given.draws.words(5))
        )
        return rows @ image @ columns.transpose(-1, -2)

    def sides(self, size: int, words: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Return two pairs, for rows and for columns: the length (N,) and the first pixel (N,) of each image's crop.

        `size` is the side of the images in pixels. `words` (N, 5) are the bits of random integers.
        """
        from study.reproducibility.words import below, shares

        area = self.low + (self.high - self.low) * shares(words[:, 0])
        ratio = 1 + (self.ratio - 1) * shares(words[:, 1])
        upright = below(words[:, 2], 2) == 1
        long, short = ((size * one.sqrt()).round().clamp(1, size).long() for one in (area * ratio, area / ratio))
        lengths = (long.where(upright, short), short.where(upright, long))
        return [(one, below(words[:, place], size - one + 1)) for one, place in zip(lengths, (3, 4), strict=True)]


def _matrices(size: int, length: Tensor, start: Tensor) -> Tensor:
    """Return matrices (N, size, size), float64, that resize a part of an axis to the whole axis (bilinear).

    The part of image n has `length[n]` pixels, from pixel `start[n]` on. The whole axis has `size` pixels.
    """
    import torch

    found = torch.zeros(len(length), size, size, dtype=torch.float64, device=length.device)
    place = torch.arange(size, device=length.device, dtype=torch.float64)[None] + 0.5
    last = (length - 1)[:, None]
    centre = (place * (length.to(torch.float64) / size)[:, None] - 0.5).clamp(min=0)
    near = centre.long().minimum(last)
    far = (near + 1).minimum(last)
    share = centre - near
    # Each call adds only one number to each row of a matrix, so the order of additions is fixed.
    for column, weight in ((near, 1 - share), (far, share)):
        found.scatter_add_(2, (column + start[:, None])[:, :, None], weight[:, :, None])
    return found
