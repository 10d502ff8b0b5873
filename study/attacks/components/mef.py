"""Maximin expected flatness, MEF: gradients at random neighbours, which move along their own earlier gradients."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from study.attacks.budget_spec import Positive
from study.attacks.component import AttackOutline
from study.attacks.components.normalised import by_mean
from study.attacks.components.places import not_innermost, without_epsilon
from study.attacks.kinds import Inner, Point, State, StepContext
from study.attacks.registry import register

if TYPE_CHECKING:
    from torch import Tensor


@register
class MaximinFlatness(Point):
    """Maximin expected flatness, MEF: the mean gradient at random neighbours, which follow their own earlier gradients.

    Qiu et al. 2024, arXiv:2405.16181 (the first version of the paper calls the method NCS). A neighbour is the image
    plus uniform noise. The attack maximises the expectation, over neighbours, of the lowest loss near each neighbour. A
    step against the gradient at the neighbour would lead to this lowest loss, but would take a second gradient.
    Instead, neighbour i is moved along G_i, which combines the earlier gradients at neighbour i. G_i is 0 in the first
    step. After each step, G_i becomes n(g_i) - decay * G_i. g_i is the gradient at neighbour i, and n(g) = g / mean |g|
    for each image.

    - `samples`: the number of neighbours. For each neighbour, a tensor G_i of the size of the images is kept in memory;
    - `radius`: the noise is uniform within +-`radius` times epsilon;
    - `reach`: the length of the move along G_i, as a multiple of epsilon;
    - `decay`: the factor of the old G_i;
    - `variant`: the sign of the move. `paper` moves a neighbour by -reach * epsilon * G_i. We derived this sign: the
      inner problem is a minimum, and G_i contains gradients of the loss. `authors` moves a neighbour by
      +reach * epsilon * G_i, as the authors' code and TransferAttack do.
    """

    name: ClassVar[str] = "mef"

    samples: Annotated[int, Field(ge=1, le=10_000)] = 20
    radius: Positive = 2.0
    reach: Positive = 0.15
    decay: Annotated[float, Field(ge=0, le=1)] = 0.9
    variant: Literal["paper", "authors"] = "paper"

    def conflicts(self, attack: AttackOutline) -> Iterator[str]:
        yield from not_innermost(self.name, attack)
        yield from without_epsilon(self.name, attack)

    def calls(self, steps: int) -> tuple[int, int]:
        return 0, self.samples * steps

    def gradient(self, delta: Tensor, step: StepContext, inner: Inner, state: State) -> Tensor:
        import torch

        epsilon = step.epsilon
        assert epsilon is not None, "conflicts() requires an epsilon"
        reach = self.reach * epsilon * (1 if self.variant == "authors" else -1)
        memories: dict[int, Tensor] = state.setdefault("memories", {})
        total = torch.zeros_like(delta)
        for sample in range(self.samples):
            away = step.draws(self, sample).uniform(delta.shape[1:])
            near = delta + self.radius * epsilon * away
            last = memories.get(sample)
            if last is not None:
                near = near + reach * last
            gradient = step.gradient(step.origin + near, sample, near)
            total += gradient
            fresh = by_mean(gradient)
            memories[sample] = fresh if last is None else fresh - self.decay * last
        return total / self.samples
