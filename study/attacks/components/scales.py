"""Scale invariance, SI: copies of the image divided by powers of two.

Lin et al. 2020 (arXiv:1908.06281), equation 7.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field

from study.attacks.kinds import View, ViewContext
from study.attacks.registry import register

if TYPE_CHECKING:
    from torch import Tensor


@register
class Scales(View):
    """Scale invariance, SI: `copies` copies of the image. Copy i, counted from 0, is divided by 2^i."""

    name: ClassVar[str] = "scales"
    main: ClassVar[str | None] = "copies"

    copies: Annotated[int, Field(ge=1, le=16)] = 5

    def make(self, image: Tensor, given: ViewContext) -> Tensor:
        return image / 2**given.copy if given.copy else image
