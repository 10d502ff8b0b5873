"""Diversity ensemble (DEM): a view with one copy for each of several frame sizes, whose logits are averaged."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from study.attacks.components.diversity import Diversity, diversify
from study.attacks.kinds import View, ViewContext
from study.attacks.registry import register
from study.attacks.resampling import Interpolation

if TYPE_CHECKING:
    from torch import Tensor

Frame = Annotated[float, Field(ge=1, le=4)]


@register
class DiversityEnsemble(View):
    """Diversity ensemble (DEM): one copy for each of `frames`; the loss is computed from the copies' mean logits.

    Source: Zou et al. 2020, arXiv:2112.06011. Each copy is a resized-diverse input (RDI), made in three steps. The
    image is resized to a random size between the image's own size and the size of the frame. The resized image is put
    at a random place of the frame. The frame is resized back to the size of the image. Unlike in `diversity`, every
    copy is changed.

    - `frames`: the sizes of the frames, in multiples of the image's size;
    - `interpolation`: that of the first resizing. The second resizing is bilinear.

    In the paper, each step moves by the whole epsilon ("region fitting"), so the preset `dem` has epsilon as its step
    size. Every image has its own draws. TransferAttack draws one size and one place for a whole batch.
    """

    name: ClassVar[str] = "dem"
    version: ClassVar[int] = 2
    averages: ClassVar[Literal["gradients", "logits"]] = "logits"

    frames: Annotated[tuple[Frame, ...], Field(strict=False, min_length=1)] = (1.14, 1.27, 1.4, 1.53, 1.66)
    interpolation: Interpolation = "bilinear"

    @property
    def count(self) -> int:
        return len(self.frames)

    def make(self, image: Tensor, given: ViewContext) -> Tensor:
        frame = Diversity(probability=1, low=1, high=self.frames[given.copy], interpolation=self.interpolation)
        return diversify(image, frame, given.draws.words(4))
