"""Improved Euler method (IE): a rule that averages the gradient at the image and the gradient one step ahead."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, ClassVar

from study.attacks.component import AttackOutline
from study.attacks.components.normalised import by_mean
from study.attacks.components.places import with_adam
from study.attacks.kinds import Inner, Point, State, StepContext
from study.attacks.registry import register

if TYPE_CHECKING:
    from torch import Tensor


@register
class EulersMethod(Point):
    """Improved Euler method (IE): the mean of the normalised gradients at the image and one step further.

    Source: Peng et al., ICASSP 2023, "Boosting Transferability of Adversarial Example via an Enhanced Euler's Method".
    The result is (n(g) + n(g')) / 2, where n(g) is g / mean |g| for each image. g is the gradient at the perturbation
    d, and g' is the gradient at d + size * n(g). `size` is the length of a step. The attack's momentum accumulates the
    result. TransferAttack accumulates the results without normalisation, like
    `{momentum: {decay: 1, normalise: none}}`.
    """

    name: ClassVar[str] = "ie"

    def conflicts(self, attack: AttackOutline) -> Iterator[str]:
        yield from with_adam(self.name, attack)

    def calls(self, steps: int) -> tuple[int, int]:
        return steps, steps

    def gradient(self, delta: Tensor, step: StepContext, inner: Inner, state: State) -> Tensor:
        here = by_mean(inner(delta))
        ahead = delta + step.size * here
        there = by_mean(step.gradient(step.origin + ahead, 1, ahead))
        return (here + there) / 2
