"""Dual examples: a rule that takes gradients at other perturbations than the attack's own perturbation."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from study.attacks.component import AttackOutline
from study.attacks.components.places import not_innermost, with_adam, without_epsilon
from study.attacks.kinds import Inner, Point, State, StepContext
from study.attacks.registry import register

if TYPE_CHECKING:
    from torch import Tensor


@register
class DualExamples(Point):
    """Dual examples: the mean gradient at `examples` perturbations that are not the attack's own perturbation.

    Source: Wang et al. 2024, "Bag of tricks to boost the adversarial transferability" (arXiv:2401.08734). Each dual
    example is first drawn uniformly within epsilon, and projected onto the pixel values 0..255.

    - `path: i-fgsm`: after each step, the dual example moves by a sign step along its own gradient. This sign step has
      the length of the attack's steps, and stays within the budget;
    - `path: fgsm`: each dual example is drawn anew at each step.

    The attack takes no gradient at its own image. The image moves along the mean gradient of the dual examples, by the
    attack's momentum and sign step.

    Other code: The text of the paper was not available. This rule follows the port of TransferAttack, whose table has
    both paths, as "FGSM" and "I-FGSM". The class in this port draws dual examples anew at each step, and moves none of
    them.
    """

    name: ClassVar[str] = "dual"
    main: ClassVar[str | None] = "examples"

    examples: Annotated[int, Field(ge=1, le=1000)] = 5
    path: Literal["i-fgsm", "fgsm"] = "i-fgsm"

    def conflicts(self, attack: AttackOutline) -> Iterator[str]:
        yield from not_innermost(self.name, attack)
        yield from without_epsilon(self.name, attack)
        yield from with_adam(self.name, attack)

    def calls(self, steps: int) -> tuple[int, int]:
        return 0, self.examples * steps

    def gradient(self, delta: Tensor, step: StepContext, inner: Inner, state: State) -> Tensor:
        import torch

        assert step.epsilon is not None, "conflicts() requires an epsilon"
        total = torch.zeros_like(delta)
        for number in range(self.examples):
            place: Tensor | None = state.get(str(number)) if self.path == "i-fgsm" else None
            if place is None:
                drawn = step.draws(self, number).uniform(delta.shape[1:])
                place = step.project(step.epsilon * drawn.to(delta.dtype))
            found = step.gradient(step.origin + place, number, place)
            total += found
            if self.path == "i-fgsm":
                state[str(number)] = step.project(place + step.size * found.sign())
        return total / self.examples
