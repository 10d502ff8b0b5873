"""The budgets that need no `rule` in a spec: epsilon (L-infinity), L2, RMSD, the smallest successful RMSD, and none."""

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
    """No budget: only the range of pixel values, 0..255, limits an image."""

    name: ClassVar[str] = "none"
    rounding: ClassVar[Rounding] = "nearest"

    def measure(self, delta: Tensor, origin: Tensor) -> Tensor:
        return delta.abs().amax((1, 2, 3))

    def radius(self, length: float, values: int) -> float | None:
        return None


@register
class EpsilonBudget(BudgetRule):
    """A limit on the L-infinity norm: no pixel value changes by more than epsilon."""

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
            # One clamp projects onto the budget and onto 0..255, because both ranges contain the zero perturbation.
            low, high = low.clamp(min=-levels[0]), high.clamp(max=levels[0])
        return lambda delta: delta.clamp(low, high)


class _RootMeanSquare(BudgetRule):
    """The base of budgets that measure the RMSD of a perturbation.

    The RMSD is the square root of the mean of all squared changes of pixel values.
    """

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
    """A fixed RMSD over all pixel values.

    A finished image has this RMSD, up to the rounding of one pixel (Liu et al. 2017, section 3.2.1). The RMSD is
    smaller if the range of pixel values or a zero perturbation prevents it.
    """

    name: ClassVar[str] = "rmsd"
    rounding: ClassVar[Rounding] = "ray"


@register
class L2Budget(_RootMeanSquare):
    """A limit on the L2 norm, applied as a limit on the RMSD: RMSD = L2 norm / sqrt(number of pixel values)."""

    name: ClassVar[str] = "l2"
    rounding: ClassVar[Rounding] = "ray or nearest"

    def radius(self, length: float, values: int) -> float | None:
        return length / math.sqrt(values)


@register
class MinimalBudget(NoBudget):
    """The smallest RMSD at which an image fools a target model.

    The RMSD is searched for each target model separately, along the direction of one step.
    """

    name: ClassVar[str] = "minimal"
    in_pixel_values: ClassVar[bool] = True
