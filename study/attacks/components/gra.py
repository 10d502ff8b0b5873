"""Gradient relevance (GRA): a rule that mixes the gradient with the mean gradient at random places near the image.

`DecayIndicator` is the step rule of the same paper. It moves pixel values less if the sign of their gradient changes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field

from study.attacks.budget_spec import Positive
from study.attacks.component import AttackOutline
from study.attacks.components.directions import l2_normalised
from study.attacks.components.places import without_epsilon
from study.attacks.kinds import Inner, Point, State, Step, StepContext
from study.attacks.registry import register

if TYPE_CHECKING:
    from torch import Tensor


@register
class GradientRelevance(Point):
    """Gradient relevance (GRA): s g + (1 - s) m, with the mean gradient m of random neighbours, and s = cosine(g, m).

    Source: Zhu et al., ICCV 2023, "Boosting Adversarial Transferability via Gradient Relevance Attack". g is the
    gradient at the attacked image. Neighbours are the attacked image plus uniform noise. The authors combine this rule
    with the step `decay-indicator`.

    - `samples`: the number of neighbours;
    - `radius`: the noise is within `radius` times epsilon.

    For a targeted goal, the library torchattack 1.7.2 has the wrong sign for the loss of the neighbours.
    """

    name: ClassVar[str] = "gra"

    samples: Annotated[int, Field(ge=1, le=10_000)] = 20
    radius: Positive = 3.5

    def conflicts(self, attack: AttackOutline) -> Iterator[str]:
        yield from without_epsilon(self.name, attack)

    def calls(self, steps: int) -> tuple[int, int]:
        return steps, self.samples * steps

    def gradient(self, delta: Tensor, step: StepContext, inner: Inner, state: State) -> Tensor:
        import torch

        epsilon = step.epsilon
        assert epsilon is not None, "conflicts() requires an epsilon"
        gradient = inner(delta)
        total = torch.zeros_like(delta)
        for sample in range(1, self.samples + 1):
            away = step.draws(self, sample).uniform(delta.shape[1:])
            near = delta + self.radius * epsilon * away
            total += step.gradient(step.origin + near, sample, near)
        mean = total / self.samples
        cosine = (l2_normalised(gradient) * l2_normalised(mean)).sum((1, 2, 3), keepdim=True)
        return cosine * gradient + (1 - cosine) * mean


@register
class DecayIndicator(Step):
    """Sign steps with a factor for each pixel value; the factor shrinks each time that the sign changes.

    Source: Zhu et al., ICCV 2023, "Boosting Adversarial Transferability via Gradient Relevance Attack". The sign is
    that of the gradient at the pixel value. Each time that the sign changes, the factor is multiplied by `eta`. The
    factor starts at 1 / `eta`, and the sign before the first step counts as 0. The first sign is therefore a change,
    and the first step has the factor 1.

    The library torchattack 1.7.2 compares the values of the momentum, not their signs. These values differ in every
    step, so each step of torchattack is shorter than the step before.

    - `eta`: the factor for a change of the sign.
    """

    name: ClassVar[str] = "decay-indicator"
    main: ClassVar[str | None] = "eta"

    eta: Annotated[float, Field(gt=0, le=1)] = 0.94

    def direction(self, gradient: Tensor, step: StepContext, state: State) -> Tensor:
        import torch

        sign = gradient.sign()
        last = state.get("sign", torch.zeros_like(sign))
        factor = state.get("factor", torch.full_like(sign, 1 / self.eta))
        factor = torch.where(sign == last, factor, self.eta * factor)
        state["sign"], state["factor"] = sign, factor
        return factor * sign
