"""First perturbations that are not zero: a random perturbation within the budget, and Gaussian noise."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from study.attacks.budget_spec import Positive
from study.attacks.component import AttackOutline, BudgetOutline
from study.attacks.components.directions import l2_normalised
from study.attacks.kinds import Draws, Start, StepDraws
from study.attacks.registry import register
from study.devices.copies import uploaded

if TYPE_CHECKING:
    from torch import Tensor


@register
class RandomStart(Start):
    """A first perturbation that is uniform within the budget: in the epsilon cube, or in the L2 or RMSD ball.

    Madry et al. 2018, arXiv:1706.06083, draw from the epsilon cube.
    """

    name: ClassVar[str] = "random"
    streams: ClassVar[str | None] = "start"

    def conflicts(self, attack: AttackOutline) -> Iterator[str]:
        if attack.budget.kind == "none":
            yield "a random start needs a budget: it is uniform within the budget"
        elif attack.budget.kind not in ("epsilon", "l2", "rmsd", "minimal"):
            yield "a random start is uniform within an epsilon, L2 or RMSD budget, but the budget has another rule"

    def perturbation(self, origin: Tensor, budget: BudgetOutline, rmsd: Tensor | None, draws: Draws) -> Tensor:
        if budget.epsilon is not None:
            (epsilon,) = budget.levels
            assert epsilon is not None, "an epsilon budget has an epsilon"
            return epsilon * draws.uniform(origin.shape[1:])
        assert rmsd is not None, "a budget without an epsilon has a radius"
        assert isinstance(draws, StepDraws), "the draws of the radius are built from the fields of StepDraws"
        words = StepDraws(draws.streams, draws.name, draws.device, draws.step, 1).integers(1)[:, 0].tolist()
        count = origin[0].numel()
        inside = uploaded(
            np.array([((word + 0.5) / 2**64) ** (1 / count) for word in words], dtype=np.float32), origin.device
        )
        direction = l2_normalised(draws.normal(origin.shape[1:])) * math.sqrt(count)
        return (rmsd * inside)[:, None, None, None] * direction


@register
class GaussianStart(Start):
    """A first perturbation of Gaussian noise with the standard deviation `sigma`, in pixel values."""

    name: ClassVar[str] = "gaussian"
    main: ClassVar[str | None] = "sigma"
    streams: ClassVar[str | None] = "start"

    sigma: Positive

    def perturbation(self, origin: Tensor, budget: BudgetOutline, rmsd: Tensor | None, draws: Draws) -> Tensor:
        return self.sigma * draws.normal(origin.shape[1:])
