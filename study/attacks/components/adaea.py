"""Adaptive ensemble attack, AdaEA: models weigh as much as their images transfer; pixels in dispute are left out."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from study.attacks.kinds import AnyObjective, EnsembleRule, Goal, ModelsAt, Objective, State
from study.attacks.registry import register

if TYPE_CHECKING:
    from torch import Tensor

_LEAST = 1e-12
"""Cross-entropies below count as this, so that a ratio is finite."""


@register
class AdaptiveEnsemble(EnsembleRule):
    """Adaptive ensemble, AdaEA: weights by how an image for one model harms the others; disputed pixels are left out.

    Chen et al. 2023, arXiv:2308.02897. From the image x each of K models makes x_j, one step of the attack's size along
    the sign of its gradient. With the cross-entropy L_i of the labels at model i, the weights are the softmax over j of
    `beta` x sum over i != j of L_i(x_j) / L_i(x_i). The rule's gradient is that of the objective of the weighted mean
    logits, and 0 where the mean cosine of two models' gradients, over the channels of a pixel, is below `threshold`.
    Weights are those of each image, also where the objective is another loss; for a targeted goal, where a small
    cross-entropy is a success, the ratios are turned over (the paper is about untargeted attacks).

    `variant: authors` has the mean cosine of their code, which leaves out the last model's mean and divides by K all
    the same. In their code and in TransferAttack losses are means over a batch, the weights are those of a batch, and
    the attack starts at noise of 0.001 (values in 0..1); their MI version keeps the weights of the first step, and its
    default threshold is 0, that of TransferAttack -0.3. On one model the rule is its gradient.
    """

    name: ClassVar[str] = "adaea"

    beta: Annotated[float, Field(ge=0, le=1000)] = 10.0
    threshold: Annotated[float, Field(ge=-1, le=1)] = -0.3
    variant: Literal["paper", "authors"] = "paper"

    def loss(self, objective: AnyObjective, logits: Tensor, shares: Tensor, labels: Tensor, goal: Goal) -> Tensor:
        assert isinstance(objective, Objective), "losses of features are averaged before"
        return objective.loss((shares[..., None] * logits).sum(0), labels, goal)

    def gradient(self, image: Tensor, models: ModelsAt, sample: int, state: State) -> Tensor:
        import torch

        single = [models.of(model, image, sample) for model in range(models.count)]
        if models.count == 1:
            return single[0]
        weights = self._weights(image, models, single)
        agree = self._cosines(single) >= self.threshold
        return torch.where(agree, models.weighted(image, weights, sample), 0)

    def _weights(self, image: Tensor, models: ModelsAt, single: list[Tensor]) -> Tensor:
        """The models' weights for each image, (K, N)."""
        import torch

        begun = image - models.origin
        made = [models.origin + models.project(begun + models.size * gradient.sign()) for gradient in single]
        numbers = range(models.count)
        losses = torch.stack([
            torch.stack([
                torch.nn.functional.cross_entropy(models.logits(judge, one), models.labels, reduction="none")
                for one in made
            ])
            for judge in numbers
        ]).clamp_min(_LEAST)  # fmt: skip
        own = torch.stack([losses[model, model] for model in numbers])[:, None]
        ratios = losses / own if models.goal == "untargeted" else own / losses
        sums = torch.stack([sum((ratios[i, j] for i in numbers if i != j), 0 * ratios[j, j]) for j in numbers])
        return (self.beta * sums).softmax(0)

    def _cosines(self, single: list[Tensor]) -> Tensor:
        """The mean cosine of the models' gradients at each pixel, (N, 1, H, W)."""
        import torch

        count = len(single)
        pairs = {
            (i, j): torch.nn.functional.cosine_similarity(single[i], single[j], dim=1, eps=0).nan_to_num()
            for i, j in itertools.combinations(range(count), 2)
        }
        counted = range(count if self.variant == "paper" else count - 1)
        of_each = [torch.stack([one for pair, one in pairs.items() if model in pair]).mean(0) for model in counted]
        return torch.stack(of_each).sum(0)[:, None] / count

    def cost(self, sources: int) -> int:
        return 1 if sources == 1 else 2 * sources

    def forwards(self, sources: int) -> int:
        return 0 if sources == 1 else sources**2
