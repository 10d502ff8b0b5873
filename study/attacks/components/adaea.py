"""Adaptive ensemble attack, AdaEA: models whose images transfer better weigh more; disputed pixels do not move."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from study.attacks.kinds import AnyObjective, EnsembleRule, Goal, ModelsAt, Objective, State
from study.attacks.registry import register

if TYPE_CHECKING:
    from torch import Tensor

_LEAST = 1e-12
"""Cross-entropies below this value are set to this value, so that ratios are finite."""


@register
class AdaptiveEnsemble(EnsembleRule):
    """Adaptive ensemble, AdaEA: models whose images transfer better weigh more; disputed pixels get no gradient.

    Chen et al. 2023, arXiv:2308.02897. Each model j of the K models makes an image x_j from the image x, by one step of
    the attack's size along the sign of the model's gradient. L_i is the cross-entropy of the labels at model i. The
    weights are the softmax over j of `beta` x sum over i != j of L_i(x_j) / L_i(x_i). The rule's gradient is the
    gradient of the objective of the weighted mean logits. At each pixel, the rule also computes the cosine of two
    models' gradients over the channels, averaged over the pairs of models. Where this mean is below `threshold`, the
    rule's gradient is 0. Each image has its own weights. They follow from the cross-entropy even if the objective is
    another loss. For a targeted goal, where a small cross-entropy is a success, the ratios are inverted (the paper is
    about untargeted attacks).

    `variant: authors` computes the mean cosine as the authors' code does: it averages the cosines of each model with
    the others, leaves out the last model in the sum over models, and still divides by K. In the authors' code and in
    TransferAttack, losses are means over a batch, a batch shares its weights, and the attack starts with noise of 0.001
    (values in 0..1). The authors' MI version keeps the weights of the first step, and its default threshold is 0.
    TransferAttack's threshold is -0.3. With one model, the rule's gradient is that model's gradient.
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
