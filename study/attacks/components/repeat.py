"""Unchanged copies of the image."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from study.attacks.components.smoothing import Copies
from study.attacks.kinds import View, ViewContext
from study.attacks.registry import register

if TYPE_CHECKING:
    from torch import Tensor


@register
class Repeat(View):
    """`copies` unchanged copies of the image, for attacks that change the network differently for each copy.

    The attack averages the gradients over the copies. If the network is the same for all copies, one copy gives the
    same result.
    """

    name: ClassVar[str] = "repeat"
    main: ClassVar[str | None] = "copies"

    copies: Copies = 20

    def make(self, image: Tensor, given: ViewContext) -> Tensor:
        return image
