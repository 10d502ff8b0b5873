"""Prediction and correction, PC: a step that also follows the gradient at the place where a plain step would end."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field

from study.attacks.components.normalised import by_mean
from study.attacks.kinds import Inner, Point, State, StepContext
from study.attacks.registry import register

if TYPE_CHECKING:
    from torch import Tensor


@register
class PredictionCorrection(Point):
    """Prediction and correction, PC: n(g) + mean of n(g_k), with gradients g_k at `predictions` predicted places.

    Wan and Huang 2023, arXiv:2306.01809. g is the gradient at the image. n divides a gradient by its mean absolute
    value, for each image. The first predicted place is one sign step from the image, along g. Every further place is
    one sign step from the previous place, along the gradient at the previous place. Places are projected onto the
    budget. The paper and its code have one predicted place.

    TransferAttack takes the second gradient before the image is moved, so the second gradient repeats the first. The
    predicted step of TransferAttack has the length epsilon, and its norms are taken over the whole batch.
    """

    name: ClassVar[str] = "prediction-correction"
    main: ClassVar[str | None] = "predictions"

    predictions: Annotated[int, Field(ge=1, le=1000)] = 1

    def calls(self, steps: int) -> tuple[int, int]:
        return steps, steps * self.predictions

    def gradient(self, delta: Tensor, step: StepContext, inner: Inner, state: State) -> Tensor:
        import torch

        place, last = delta, inner(delta)
        first, corrections = by_mean(last), torch.zeros_like(delta)
        for number in range(1, self.predictions + 1):
            place = step.project(place + step.size * last.sign())
            last = step.gradient(step.origin + place, number, place)
            corrections += by_mean(last)
        return first + corrections / self.predictions
