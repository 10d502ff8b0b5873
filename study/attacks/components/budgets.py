"""The budgets that have keys of their own in a spec: epsilon, L2, RMSD, the search of the minimal RMSD, and none."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

from study.attacks.kinds import BudgetRule, Projecting
from study.attacks.registry import register

if TYPE_CHECKING:
    from torch import Tensor

Rounding = Literal["measured", "nearest", "ray", "ray or nearest"]


@register
class NoBudget(BudgetRule):
    """No budget: only the pixel box 0..255 limits an image."""

    name: ClassVar[str] = "none"
    rounding: ClassVar[Rounding] = "nearest"

    def measure(self, delta: Tensor, origin: Tensor) -> Tensor:
        return delta.abs().amax((1, 2, 3))

    def radius(self, length: float, values: int) -> float | None:
        return None


@register
class EpsilonBudget(BudgetRule):
    """The L-infinity norm: no pixel value moves by more than epsilon."""

    name: ClassVar[str] = "epsilon"
    in_pixel_values: ClassVar[bool] = True
    rounding: ClassVar[Rounding] = "nearest"

    def measure(self, delta: Tensor, origin: Tensor) -> Tensor:
        return delta.abs().amax((1, 2, 3))

    def radius(self, length: float, values: int) -> float | None:
        return None

    def projection(self, origin: Tensor, levels: Sequence[float | None], radius: Tensor | None) -> Projecting:
        low, high = -origin, 255 - origin
        if len(levels) == 1 and levels[0] is not None:
            # One clamp does both projections, because the pixel box contains the zero perturbation.
            low, high = low.clamp(min=-levels[0]), high.clamp(max=levels[0])
        return lambda delta: delta.clamp(low, high)


class _RootMeanSquare(BudgetRule):
    """A budget measured as an RMSD: the root of the mean square over all pixel values."""

    in_pixel_values: ClassVar[bool] = True

    def measure(self, delta: Tensor, origin: Tensor) -> Tensor:
        return delta.square().mean((1, 2, 3)).sqrt()

    def project(self, delta: Tensor, origin: Tensor, radius: Tensor) -> Tensor:
        import torch

        length = self.measure(delta, origin)
        shrink = torch.where(length > radius, radius / length, 1)
        return delta * shrink[:, None, None, None]


@register
class RmsdBudget(_RootMeanSquare):
    """The RMSD over all pixel values. A finished image has exactly this RMSD (Liu et al. 2017, section 3.2.1)."""

    name: ClassVar[str] = "rmsd"
    rounding: ClassVar[Rounding] = "ray"


@register
class L2Budget(_RootMeanSquare):
    """The L2 norm. The rule's radius is the RMSD of a perturbation with this norm."""

    name: ClassVar[str] = "l2"
    rounding: ClassVar[Rounding] = "ray or nearest"

    def radius(self, length: float, values: int) -> float | None:
        return length / math.sqrt(values)


@register
class MinimalBudget(NoBudget):
    """The smallest RMSD that fools a target. It is searched for each target, along the direction of one step."""

    name: ClassVar[str] = "minimal"
    in_pixel_values: ClassVar[bool] = True
