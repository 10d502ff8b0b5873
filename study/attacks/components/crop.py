"""Random crops: a part of the image, resized to the whole image."""

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
    """A crop with a random share of the image's area, `low` to `high`, at a random place, resized back (bilinear).

    The crops of M-Attack (Li et al. 2025, arXiv:2503.10635) are those of torchvision's `RandomResizedCrop`. A crop is
    up to `ratio` times as wide as high, or as high as wide. Here this ratio is uniform in 1..`ratio`, and each of both
    cases has the probability 1/2; torchvision draws the logarithm of width / height. A side that would be longer than
    the image has the image's length; torchvision draws again.
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
        """For rows and columns: the length (N,) and the first pixel (N,) of each image's crop. `words`: (N, 5)."""
        from study.reproducibility.words import below, shares

        area = self.low + (self.high - self.low) * shares(words[:, 0])
        ratio = 1 + (self.ratio - 1) * shares(words[:, 1])
        upright = below(words[:, 2], 2) == 1
        long, short = ((size * one.sqrt()).round().clamp(1, size).long() for one in (area * ratio, area / ratio))
        lengths = (long.where(upright, short), short.where(upright, long))
        return [(one, below(words[:, place], size - one + 1)) for one, place in zip(lengths, (3, 4), strict=True)]


def _matrices(size: int, length: Tensor, start: Tensor) -> Tensor:
    """The matrices (N, size, size), float64, that resize `length` (N,) pixels from `start` (N,) to `size` pixels."""
    import torch

    found = torch.zeros(len(length), size, size, dtype=torch.float64, device=length.device)
    place = torch.arange(size, device=length.device, dtype=torch.float64)[None] + 0.5
    last = (length - 1)[:, None]
    centre = (place * (length.to(torch.float64) / size)[:, None] - 0.5).clamp(min=0)
    near = centre.long().minimum(last)
    far = (near + 1).minimum(last)
    share = centre - near
    # Each call adds one number to each row, so the order of additions is fixed.
    for column, weight in ((near, 1 - share), (far, share)):
        found.scatter_add_(2, (column + start[:, None])[:, :, None], weight[:, :, None])
    return found
