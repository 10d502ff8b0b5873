"""Stochastic variance reduced ensemble, SVRE: inner steps on single models, corrected by the ensemble's gradient."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from study.attacks.budget_spec import Positive
from study.attacks.kinds import AnyObjective, EnsembleRule, Goal, ModelsAt, Objective, State
from study.attacks.registry import register

if TYPE_CHECKING:
    from torch import Tensor


@register
class VarianceReduced(EnsembleRule):
    """Stochastic variance reduced ensemble, SVRE: `inner` x K inner steps, each on a random one of K models.

    Xiong et al. 2022, arXiv:2111.10752, algorithm 1. x is the image of the attack's step, and y the image of an inner
    step. g_k is the gradient of model k, and g the models' mean gradient. An inner step draws a model k, and computes
    two things:

    - G <- `decay` G + g_k(y) - (g_k(x) - g(x));
    - y <- y + `size` sign(G), within the budget.

    The last G is the gradient that the rule returns. `decay` is the momentum of the inner steps. For momentum from step
    to step, add an update to the attack. `size` is the length of an inner step in pixel values. Its default is the
    length of the attack's steps, as in the paper.

    `variant: authors` follows the authors' code in two points. g is the gradient for the models' mean logits. The
    whole term g_k(y) - (g_k(x) - g(x)) is divided by its mean absolute value before it is added to `decay` G.

    The authors' code and TransferAttack compute the gradients g_k(x) again in each inner step. Here, each of these
    gradients is computed once, with the same result. A step takes K + `inner` x K gradients. With `variant: authors`
    and several models, it takes K more. The authors' code takes K + 2 x `inner` x K. The models are drawn for each
    step, and are the same for all images. With a different draw for each image, every inner step would need the
    gradients of all models. If views draw random numbers, the gradients at x and y use the same draws. With one model,
    the rule is an inner loop with momentum.
    """

    name: ClassVar[str] = "svre"
    main: ClassVar[str | None] = "inner"

    inner: Annotated[int, Field(ge=1, le=1000)] = 4
    decay: Annotated[float, Field(ge=0, le=100)] = 1.0
    size: Positive | None = None
    variant: Literal["paper", "authors"] = "paper"

    def loss(self, objective: AnyObjective, logits: Tensor, shares: Tensor, labels: Tensor, goal: Goal) -> Tensor:
        if self.variant == "paper" or len(logits) == 1:
            return super().loss(objective, logits, shares, labels, goal)
        assert isinstance(objective, Objective), "an ensemble rule never fuses losses of features"
        return objective.loss((shares[..., None] * logits).sum(0), labels, goal)

    def gradient(self, image: Tensor, models: ModelsAt, sample: int, state: State) -> Tensor:
        import torch

        single = [models.of(model, image, sample) for model in range(models.count)]
        if self._fuses_logits(models.count):
            everyone = models.joint(image, sample)
        else:
            everyone = torch.stack([weight * one for weight, one in zip(models.weights, single, strict=True)]).sum(0)
        words = models.common.integers(self.inner * models.count)[0].tolist()
        size = models.size if self.size is None else self.size
        there, total = image, image.new_zeros(())
        for word in words:
            model = int(word % models.count)
            term = models.of(model, there, sample) - (single[model] - everyone)
            if self.variant == "authors":
                mean = term.abs().mean((1, 2, 3), keepdim=True)
                term = term / mean.where(mean > 0, 1)
            total = self.decay * total + term
            there = models.origin + models.project(there - models.origin + size * total.sign())
        return total

    def _fuses_logits(self, sources: int) -> bool:
        return self.variant == "authors" and sources > 1

    def cost(self, sources: int) -> int:
        return (sources if self._fuses_logits(sources) else 0) + sources + self.inner * sources
