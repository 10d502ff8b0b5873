"""Budgets that the project does not have: a sum of changes, and a ball of what a blurred eye sees."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from study.attacks.kinds import BudgetRule


class Sum(BudgetRule):
    """The l1 norm: the sum of all changes, in pixel values. The projection is that of Duchi et al. 2008."""

    name: ClassVar[str] = "sum"

    def measure(self, delta: Tensor, origin: Tensor) -> Tensor:
        return delta.double().abs().sum((1, 2, 3)).float()

    def project(self, delta: Tensor, origin: Tensor, radius: Tensor) -> Tensor:
        size = delta.flatten(1).double().abs()
        falling = size.sort(dim=1, descending=True).values
        excess = falling.cumsum(1) - radius.double()[:, None]
        count = torch.arange(1, size.shape[1] + 1, device=size.device)
        last = (falling * count > excess).sum(1, keepdim=True) - 1
        less = (excess.gather(1, last) / (last + 1)).clamp(min=0)
        kept = (size - less).clamp(min=0).view_as(delta).to(delta.dtype)
        return delta.sign() * kept


class Blurred(BudgetRule):
    """The RMSD of the change that remains in a blurred image; the projection is the kind's own."""

    name: ClassVar[str] = "blurred"

    side: int = 3

    def measure(self, delta: Tensor, origin: Tensor) -> Tensor:
        seen = avg_pool2d(delta, self.side, stride=1, padding=self.side // 2)
        return seen.square().mean((1, 2, 3)).sqrt()
