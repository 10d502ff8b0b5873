"""Penalised gradient norm, PGN: gradients at random neighbours, and at places one step down the loss from each."""

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
    """Penalised gradient norm, PGN: the mean of (1 - balance) g' + balance g* over random neighbours of the image.

    Ge et al. 2023, arXiv:2306.05225, algorithm 1. A neighbour x' is the image plus uniform noise. g' is the gradient at
    x'. g* is the gradient at x' - size * g' / |g'|, where size is the length of a step.

    - `samples`: the number of neighbours; each neighbour takes two gradients;
    - `radius`: the noise is uniform within +-`radius` times epsilon;
    - `balance`: the weight of g*;
    - `variant`: the norm |g'|. With `paper`, |g'| is the L1 norm. The place of g* is then about 1e-5 pixel values from
      x', and g' and g* are nearly equal in float32. With `authors`, |g'| is the mean of the absolute values of g', as
      in the authors' code and TransferAttack. The place of g* is then one step from x'.
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
