"""A view with draws: the image rolled by a random number of pixels."""

from __future__ import annotations

from typing import ClassVar

import torch

from study.attacks.kinds import View, ViewContext


class Roll(View):
    """`copies` of the image, each rolled by up to `reach` pixels along both axes."""

    name: ClassVar[str] = "roll"

    copies: int = 2
    reach: int = 4

    def make(self, image: torch.Tensor, given: ViewContext) -> torch.Tensor:
        words = given.draws.integers(2).tolist()
        moved = [
            torch.roll(one, (down % (self.reach + 1), right % (self.reach + 1)), (1, 2))
            for one, (down, right) in zip(image, words, strict=True)
        ]
        return torch.stack(moved)
