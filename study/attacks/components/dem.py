"""Diversity ensemble, DEM: copies in frames of several sizes, whose logits are averaged."""

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
    """Diversity ensemble, DEM: one copy for each of `frames`; the loss is computed from the copies' mean logits.

    Zou et al. 2020, arXiv:2112.06011. Each copy is a resized-diverse input, RDI. The image is always resized to a
    random size between its own and the frame's, put at a random place of the frame, and the frame is resized back.
    `frames` are sizes in multiples of the image's size. `interpolation` is used for the first resizing; the second one
    is bilinear. The paper moves by the whole epsilon in each step ("region fitting"), so the preset's step size is
    epsilon.

    Every image has draws of its own; TransferAttack draws one size and place for a whole batch.
    """

    name: ClassVar[str] = "dem"
    averages: ClassVar[Literal["gradients", "logits"]] = "logits"

    frames: Annotated[tuple[Frame, ...], Field(strict=False, min_length=1)] = (1.14, 1.27, 1.4, 1.53, 1.66)
    interpolation: Interpolation = "bilinear"

    @property
    def count(self) -> int:
        return len(self.frames)

    def make(self, image: Tensor, given: ViewContext) -> Tensor:
        frame = Diversity(probability=1, low=1, high=self.frames[given.copy], interpolation=self.interpolation)
        return diversify(image, frame, given.draws.words(4))
