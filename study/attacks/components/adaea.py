"""Adaptive ensemble attack (AdaEA): models whose images transfer better get larger weights.

Where the models' gradients disagree, the ensemble's gradient is 0.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from study.attacks.kinds import AnyObjective, EnsembleRule, Goal, ModelsAt, Objective, State
from study.attacks.registry import register

if TYPE_CHECKING:
    from torch import Tensor

_LEAST = 1e-12
"""Cross-entropies below this value are replaced by this value. Ratios of cross-entropies are then finite."""


@register
class AdaptiveEnsemble(EnsembleRule):
    """Adaptive ensemble (AdaEA): weights by how well each model's images transfer; gradient 0 where models disagree.

    Source: Chen et al. 2023, arXiv:2308.02897. The rule has K source models.

    Weights: each model j makes an image x_j. This image is one step away from the current image, along the sign of
    model j's gradient, and is projected onto the budget. The step has the length of the attack's steps. L_i(x_j) is the
    cross-entropy of model i at x_j. The weights are the softmax over j of `beta` times the sum of L_i(x_j) / L_i(x_i)
    over i != j. Each image of the batch has its own weights. The weights use the cross-entropy even if the objective is
    another loss. In a targeted attack, a small cross-entropy is a success, so the ratios are inverted. (The paper has
    untargeted attacks only.)

    Gradient: the rule takes the weighted mean of the models' logits, and returns the gradient of the objective of this
    mean. At each pixel, the rule also computes the cosine between the gradients of two models over the channels. This
    cosine is averaged over all pairs of models. Where the average is below `threshold`, the returned gradient is 0.
    With one model, the rule returns the gradient of that model.

    `variant: authors` computes the average cosine as the authors' code does. For each model, the code averages the
    cosines with the other models. Then it sums these averages over all models except the last one, and divides by K.

    Other code: In the authors' code and in TransferAttack, losses are means over a batch, and a batch shares its
    weights. Both codes start the attack with noise of 0.001 (for pixel values in 0..1). The authors' version with
    momentum (MI) keeps the weights of the first step, and its default threshold is 0. TransferAttack's threshold is
    -0.3.
    """

    name: ClassVar[str] = "adaea"

    beta: Annotated[float, Field(ge=0, le=1000)] = 10.0
    threshold: Annotated[float, Field(ge=-1, le=1)] = -0.3
    variant: Literal["paper", "authors"] = "paper"

    def loss(self, objective: AnyObjective, logits: Tensor, shares: Tensor, labels: Tensor, goal: Goal) -> Tensor:
        assert isinstance(objective, Objective), "an ensemble rule never fuses losses of features"
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
        """Return the weights of the K models for each image, (K, N). `single` has the gradient of each model."""
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
        """Return the cosine of two models' gradients at each pixel, averaged over the pairs of models: (N, 1, H, W)."""
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
