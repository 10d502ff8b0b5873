"""Objectives that weight a layer's features by gradients of the label's score, at changed copies of the clean image."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

from study.attacks.components.feature_layers import Layer, layer_of
from study.attacks.kinds import FeatureObjective, Goal, PreparingSource

if TYPE_CHECKING:
    from torch import Tensor, nn

Score = Literal["logit", "probability"]


class WeightedFeatures(FeatureObjective):
    """Base class of objectives whose loss is the sum of weights times features.

    An untargeted attack lowers this sum, and a targeted attack raises it. The weights are computed once, before the
    first step. The weights of each image and model have the L2 norm 1.
    """

    method: ClassVar[str]
    """The name of the method whose authors chose the layers that `layer: authors` selects."""

    layer: Layer = "authors"

    def layers(self, network: nn.Module) -> Sequence[str]:
        return [layer_of(network, self.layer, self.method)]

    def prepare(self, source: PreparingSource) -> Mapping[str, Tensor]:
        return {"weights": unit(self.weights(source))}

    def weights(self, source: PreparingSource) -> Tensor:
        """Return the weights (N, …) of one model's features, with any norm. `prepare` divides them by their L2 norm."""
        raise NotImplementedError

    def loss(
        self, features: Mapping[str, Tensor], prepared: Mapping[str, Tensor], logits: Tensor, labels: Tensor, goal: Goal
    ) -> Tensor:
        found = summed(only(features) * prepared["weights"])
        return found if goal == "targeted" else -found


def score_of(labels: Tensor, score: Score) -> Callable[[Tensor], Tensor]:
    """Return a function from logits (N, classes) to the score (N,) of each image's label, a logit or a probability."""

    def found(logits: Tensor) -> Tensor:
        values = logits if score == "logit" else logits.softmax(-1)
        return values.gather(-1, labels[:, None]).squeeze(-1)

    return found


def unit(values: Tensor) -> Tensor:
    """Divide each image's values (N, …) by their L2 norm. An image whose values are all 0 keeps these values."""
    import torch

    # Divide by the largest value first, because squares of a saturated model's gradients underflow in float32.
    flat = values.flatten(1)
    peak = flat.abs().amax(1, keepdim=True)
    flat = flat / torch.where(peak > 0, peak, 1)
    norm = torch.linalg.vector_norm(flat, dim=1, keepdim=True)
    return (flat / torch.where(norm > 0, norm, 1)).reshape(values.shape)


def summed(values: Tensor) -> Tensor:
    """Return the sum (N,) of each image's values (N, …). The order of summation follows the memory layout."""
    return values.sum(tuple(range(1, values.ndim)))


def only(features: Mapping[str, Tensor]) -> Tensor:
    """Return the features of the single layer in `features`."""
    (found,) = (features[name] for name in features)
    return found
