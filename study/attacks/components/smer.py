"""Stochastic mini-batch ensemble with reweighting, SMER: inner steps on single models, whose weights adapt."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar

import numpy as np
from pydantic import Field

from study.attacks.budget_spec import Positive
from study.attacks.kinds import AnyObjective, EnsembleRule, Goal, ModelsAt, Objective, State
from study.attacks.registry import register
from study.devices.copies import uploaded

if TYPE_CHECKING:
    from torch import Tensor

_SURE = -20.0
"""For margins below this value, the derivative of log softplus(margin) is 1 within the precision of float32."""


@register
class Reweighted(EnsembleRule):
    """Stochastic mini-batch ensemble, SMER: `rounds` inner steps on each of K models, with adaptive weights of logits.

    Tang et al. 2024 (CVPR, "Ensemble Diversity Facilitates Adversarial Transferability"). y is the image of an inner
    step. A round takes the K models in a random order, with one inner step for each model. An inner step has three
    parts:

    - G <- `decay` G + n(g). g is the gradient at y for the model's logits times the model's weight. n divides a
      gradient by its mean absolute value;
    - w <- w + `rate` (d log L / dw - `shrink` w), for the weight w of each model. L is the cross-entropy of the labels
      for the mean of all models' weighted logits at y;
    - y <- y + `size` sign(G), within the budget.

    The last G is the gradient that the rule returns. For momentum from step to step, add an update to the attack. A
    weight begins at K times the model's weight in the attack. This start value is 1 if all models weigh the same.
    Weights are kept from step to step. `size` is in pixel values. Its default is the length of the attack's steps.

    The default numbers and the order of computations are those of the code in TransferAttack. There are two
    differences:

    - In that code, all images of a batch share the weights, and the next batch continues with these weights. Here,
      every image has its own weights;
    - In that code, a targeted attack maximises the cross-entropy of the target label. Here, the objective defines the
      goal. For a targeted goal, the weights descend log L.

    The order of the models is drawn for each step, and is the same for all images. With a different order for each
    image, every inner step would need all models. With one model, the rule is an inner loop with momentum. The weight
    then only changes the loss.
    """

    name: ClassVar[str] = "smer"
    main: ClassVar[str | None] = "rounds"

    rounds: Annotated[int, Field(ge=1, le=1000)] = 4
    decay: Annotated[float, Field(ge=0, le=100)] = 1.0
    size: Positive | None = None
    rate: Annotated[float, Field(ge=0, le=100)] = 0.02
    shrink: Annotated[float, Field(ge=0, le=1)] = 0.002

    def loss(self, objective: AnyObjective, logits: Tensor, shares: Tensor, labels: Tensor, goal: Goal) -> Tensor:
        assert isinstance(objective, Objective), "an ensemble rule never fuses losses of features"
        return objective.loss((shares[..., None] * logits).sum(0), labels, goal)

    def gradient(self, image: Tensor, models: ModelsAt, sample: int, state: State) -> Tensor:
        import torch

        size = models.size if self.size is None else self.size
        begin = models.count * uploaded(np.array(models.weights), image.device, image.dtype)
        weights: Tensor = state.get(str(sample), begin[:, None].expand(-1, len(image)))
        there, total = image, image.new_zeros(())
        for model in self._order(models):
            gradient = models.weighted(there, weights[model : model + 1], sample, among=(model,))
            logits = torch.stack([models.logits(one, there) for one in range(models.count)])
            rise = log_loss_gradient(weights, logits, models.labels)
            weights = weights + self.rate * ((rise if models.goal == "untargeted" else -rise) - self.shrink * weights)
            mean = gradient.abs().mean((1, 2, 3), keepdim=True)
            total = self.decay * total + gradient / mean.where(mean > 0, 1)
            there = models.origin + models.project(there - models.origin + size * total.sign())
        state[str(sample)] = weights
        return total

    def _order(self, models: ModelsAt) -> list[int]:
        """Return the model of each inner step, as indices: `rounds` random permutations, one after the other."""
        words = models.common.integers(self.rounds * models.count)[0].reshape(self.rounds, models.count)
        return [int(model) for row in words.argsort(axis=1, kind="stable") for model in row]

    def cost(self, sources: int) -> int:
        return self.rounds * sources

    def forwards(self, sources: int) -> int:
        return self.rounds * sources**2


def log_loss_gradient(weights: Tensor, logits: Tensor, labels: Tensor) -> Tensor:
    """Return d log L / d weights, (K, N), where L is the cross-entropy of the mean of K models' weighted logits.

    `weights` are (K, N), `logits` (K, N, classes), and `labels` (N,). L is softplus(t). t is the log-sum-exp of the
    other labels' logits minus the label's logit. The gradient is also correct where L is 0 in float32, for an image
    that the models classify with certainty.
    """
    import torch

    place = labels[:, None]
    mean = (weights[..., None] * logits).mean(0)
    others = mean.scatter(1, place, float("-inf"))
    margin = others.logsumexp(1) - mean.gather(1, place)[:, 0]
    slope = torch.where(margin < _SURE, 1.0, margin.sigmoid() / torch.nn.functional.softplus(margin).clamp_min(1e-30))
    label = logits.gather(2, place.expand(len(logits), -1, -1))[..., 0]
    rise: Tensor = slope * ((others.softmax(1) * logits).sum(2) - label) / len(logits)
    return rise
