"""Black-box feature attack, BFA: features weighted by gradients at images moved far along their own gradients."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field

from study.attacks.budget_spec import Positive
from study.attacks.components.objectives import CrossEntropy
from study.attacks.components.weighted_features import Score, WeightedFeatures, only, score_of, unit
from study.attacks.kinds import PreparingSource
from study.attacks.registry import register

if TYPE_CHECKING:
    from torch import Tensor


@register
class BFA(WeightedFeatures):
    """Black-box feature attack, BFA: as feature importance-aware attack (FIA), with fitted images in place of masks.

    Wang et al. 2024, "Improving the transferability of adversarial examples through black-box feature attacks",
    Neurocomputing 2024. The attack lowers the sum of W f, where f are the features at `layer`. Fitted image n is
    x + `length` g_n, where x is the clean image. g_n is the gradient of the cross-entropy at fitted image n - 1
    (at first, at x), divided by its L2 norm. W is the sum of d score / d f over the `images` fitted images, divided by
    its L2 norm.

    - `layer`: `authors` is Mixed_5b of Inception-v3, features.9 of Inception-v4, conv2d_4a of Inception-ResNet-v2, and
      layer2.7 of ResNet-152. In other networks it is the layer of `middle`: conv3_3 of VGG-16, as in the paper, or
      layer2 of ResNet-50. Other values: `stage 2`, or a layer's name;
    - `length`: an L2 norm in pixel values; the authors' 28 is for pixels of 0..1;
    - `score`: the label's logit, as in the authors' code, or its probability.

    Fitted images are not clipped to 0..255. The authors' code takes the image's gradient with respect to the normalised
    image.
    """

    name: ClassVar[str] = "bfa"
    method: ClassVar[str] = "naa"

    images: Annotated[int, Field(ge=1, le=10_000)] = 30
    length: Positive = 28 * 255.0
    score: Score = "logit"

    @property
    def preparing_gradients(self) -> int:
        return 2 * self.images

    def weights(self, source: PreparingSource) -> Tensor:
        score = score_of(source.labels, self.score)
        image = source.origin
        total: Tensor | None = None

        def entropy(logits: Tensor) -> Tensor:
            return CrossEntropy().loss(logits, source.labels, "untargeted")

        for _ in range(self.images):
            image = source.origin + self.length * unit(source.image_gradient(image, entropy))
            gradient = only(source.feature_gradients(image, score))
            total = gradient if total is None else total + gradient
        assert total is not None, "there is an image"
        return total
