"""Penalised gradient norm, PGN: gradients at random neighbours, and at a place one step downhill from each."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from study.attacks.budget_spec import Positive
from study.attacks.component import AttackOutline
from study.attacks.components.normalised import by_mean
from study.attacks.components.places import not_innermost, with_adam, without_epsilon
from study.attacks.kinds import Inner, Point, State, StepContext
from study.attacks.registry import register

if TYPE_CHECKING:
    from torch import Tensor


@register
class PenalisedGradientNorm(Point):
    """A penalty on the gradient's norm, PGN: the mean over neighbours of (1 - balance) g' + balance g*.

    Ge et al. 2023, arXiv:2306.05225, algorithm 1. g' is the gradient at a neighbour x', uniform within `radius` times
    epsilon, and g* is the gradient at x' - size * g' / |g'|, where size is the length of a step.

    - `samples`: the number of neighbours; each neighbour takes two gradients;
    - `radius`: the largest distance of neighbours, as a multiple of epsilon;
    - `balance`: the weight of the second gradient;
    - `variant`: the norm |g'|. `paper` has the L1 norm: the second place is then about 1e-5 pixel values from the
      first, and in float32 both gradients are nearly equal. `authors` (their code, and TransferAttack) has the mean of
      the absolute values of g': the second place is then one step from the first.
    """

    name: ClassVar[str] = "pgn"

    samples: Annotated[int, Field(ge=1, le=10_000)] = 20
    radius: Positive = 3.0
    balance: Annotated[float, Field(ge=0, le=1)] = 0.5
    variant: Literal["paper", "authors"] = "paper"

    def conflicts(self, attack: AttackOutline) -> Iterator[str]:
        yield from not_innermost(self.name, attack)
        yield from without_epsilon(self.name, attack)
        yield from with_adam(self.name, attack)

    def calls(self, steps: int) -> tuple[int, int]:
        return 0, 2 * self.samples * steps

    def gradient(self, delta: Tensor, step: StepContext, inner: Inner, state: State) -> Tensor:
        import torch

        epsilon = step.epsilon
        assert epsilon is not None, "conflicts() requires an epsilon"
        length = 1.0 if self.variant == "authors" else 1 / delta[0].numel()
        total = torch.zeros_like(delta)
        for sample in range(self.samples):
            away = step.draws(self, sample).uniform(delta.shape[1:])
            near = delta + self.radius * epsilon * away
            first = step.gradient(step.origin + near, 2 * sample, near)
            lower = near - length * step.size * by_mean(first)
            second = step.gradient(step.origin + lower, 2 * sample + 1, lower)
            total += (1 - self.balance) * first + self.balance * second
        return total / self.samples
