"""Neuron attribution-based attack, NAA: features weighted by gradients along the path from a black image."""

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
"""Standard deviation in pixel values: 0.2 for images in -1..1."""


@register
class NAA(WeightedFeatures):
    """Neuron attribution-based attack, NAA: lower the attribution of all neurons of a layer, W (f - f_black).

    Zhang et al. 2022 (arXiv:2204.00008), algorithm 1. f are the features at `layer`, f_black those of a black image,
    and x is the clean image. W = sum_m d score(x m / `points`) / d f, for m from 1 to `points`. Attributions below 0
    are multiplied by `gamma`. With 1, the default, all attributions count alike; the paper found this linear form best.
    Then f_black changes no gradient and is not computed.

    - `layer`: `authors` is Mixed_5b of Inception-v3, Mixed_5e (features.9) of Inception-v4, Conv2d_4a of
      Inception-ResNet-v2, and layer2.7 of ResNet-152 (of a v2: block2/unit_8). In other networks it is the layer of
      `middle`, such as layer2 of ResNet-50 and conv3_3 of VGG-16. `middle` is also the authors' layer in Inception-v4
      and ResNet-152; it is Mixed_5d in Inception-v3, and `repeat` in Inception-ResNet-v2. Other values: `stage 2`, or a
      layer's name;
    - `score`: the label's probability, as in the authors' code, or its logit;
    - `variant`: with `authors`, as in their code, normal noise of standard deviation 25.5 pixel values (0.2 in -1..1)
      is added to x for each point of the path. The paper has no noise.

    W has the L2 norm 1 for each image, as in the authors' code. torchattack divides by the number of points instead,
    which changes no step on one model. It counts m from 0 to 29.
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
        assert total is not None, "the path has a point"
        return total

    def loss(
        self, features: Mapping[str, Tensor], prepared: Mapping[str, Tensor], logits: Tensor, labels: Tensor, goal: Goal
    ) -> Tensor:
        if "black" not in prepared:
            return super().loss(features, prepared, logits, labels, goal)
        attribution = (only(features) - prepared["black"]) * prepared["weights"]
        found = summed(attribution.clamp_min(0) + self.gamma * attribution.clamp_max(0))
        return found if goal == "targeted" else -found
