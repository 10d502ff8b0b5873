"""Neuron attribution-based attack, NAA: features, weighted by gradients on the path from a black image to the image."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from study.attacks.components.weighted_features import Score, WeightedFeatures, only, score_of, summed
from study.attacks.kinds import Goal, PreparingSource
from study.attacks.registry import register

if TYPE_CHECKING:
    from torch import Tensor

_AUTHORS_NOISE = 25.5
"""Standard deviation of the noise of `variant: authors`, in pixel values: 0.2 for images in -1..1."""


@register
class NAA(WeightedFeatures):
    """Neuron attribution-based attack, NAA: lower the attribution W (f - f_black), summed over the neurons of a layer.

    Zhang et al. 2022 (arXiv:2204.00008), algorithm 1. x is the clean image, f are the features at `layer`, and f_black
    are the features of a black image. The weights are W = sum_m d score(x m / `points`) / d f, for m from 1 to
    `points`. Attributions below 0 are multiplied by `gamma`. With `gamma: 1`, the default, positive and negative
    attributions count alike; the paper found this linear form best. In this case, f_black changes no gradient and is
    not computed. A targeted attack raises the attribution.

    - `layer`: with `authors`, the layer is Mixed_5b of Inception-v3, Mixed_5e (features.9) of Inception-v4, Conv2d_4a
      of Inception-ResNet-v2, and layer2.7 of ResNet-152 (block2/unit_8 of a ResNet-152 v2). In other networks,
      `authors` means `middle`. With `middle`, the layer is, for example, layer2 of ResNet-50, conv3_3 of VGG-16,
      Mixed_5d of Inception-v3, and `repeat` of Inception-ResNet-v2. In Inception-v4 and ResNet-152, `middle` is the
      same layer as `authors`. Other values are `stage 2`, `depth 0.75`, or a layer's name;
    - `score`: the quantity whose gradients are W: the label's `probability`, as in the authors' code, or the label's
      `logit`;
    - `variant`: with `authors`, as in the authors' code, normal noise is added to x for each point m of the path. The
      standard deviation of the noise is 25.5 pixel values (0.2 for images in -1..1). The paper has no noise.

    W is divided by its L2 norm for each image, as in the authors' code. torchattack divides W by the number of points
    instead. With a single source model, this difference changes no step. torchattack also counts m from 0 to 29.
    """

    name: ClassVar[str] = "naa"
    method: ClassVar[str] = "naa"

    points: Annotated[int, Field(ge=1, le=10_000)] = 30
    gamma: Annotated[float, Field(ge=0, le=100)] = 1.0
    score: Score = "probability"
    variant: Literal["paper", "authors"] = "paper"

    @property
    def preparing_gradients(self) -> int:
        return self.points

    @property
    def preparing_forwards(self) -> int:
        return 0 if self.gamma == 1 else 1

    def prepare(self, source: PreparingSource) -> Mapping[str, Tensor]:
        found = dict(super().prepare(source))
        if self.gamma != 1:
            import torch

            found["black"] = only(source.features(torch.zeros_like(source.origin)))
        return found

    def weights(self, source: PreparingSource) -> Tensor:
        score = score_of(source.labels, self.score)
        total: Tensor | None = None
        for number in range(1, self.points + 1):
            image = source.origin
            if self.variant == "authors":
                image = image + _AUTHORS_NOISE * source.draws.normal(image.shape[1:], f"noise{number}")
            gradient = only(source.feature_gradients(number / self.points * image, score))
            total = gradient if total is None else total + gradient
        assert total is not None, "`points` is at least 1"
        return total

    def loss(
        self, features: Mapping[str, Tensor], prepared: Mapping[str, Tensor], logits: Tensor, labels: Tensor, goal: Goal
    ) -> Tensor:
        if "black" not in prepared:
            return super().loss(features, prepared, logits, labels, goal)
        attribution = (only(features) - prepared["black"]) * prepared["weights"]
        found = summed(attribution.clamp_min(0) + self.gamma * attribution.clamp_max(0))
        return found if goal == "targeted" else -found
