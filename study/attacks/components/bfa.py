"""Black-box feature attack (BFA): an objective of features, weighted by gradients at strongly perturbed images."""

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
    """Black-box feature attack (BFA): like FIA (`fia`), but with fitted images in place of masked images.

    Source: Wang et al. 2024, "Improving the transferability of adversarial examples through black-box feature attacks",
    Neurocomputing 2024. An untargeted attack lowers the sum of W f, where f are the features at `layer`. A targeted
    attack raises this sum. x is the clean image.

    Fitted images: fitted image n is x + `length` g_n, for n = 1 ... `images`. g_n is the gradient of the cross-entropy
    at fitted image n - 1, divided by its L2 norm. The first gradient g_1 is taken at x. W is the sum of d score / d f
    over all fitted images, divided by its L2 norm.

    - `layer`: `authors` is Mixed_5b of Inception-v3, features.9 of Inception-v4, conv2d_4a of Inception-ResNet-v2, and
      layer2.7 of ResNet-152. In other networks, `authors` is the same as `middle`, a layer in the middle of the
      network: conv3_3 of VGG-16, as in the paper, or layer2 of ResNet-50. Other values: `middle`; `stage 2` (the end of
      the second stage); `depth 0.75`; the name of a layer;
    - `length`: an L2 norm in pixel values of 0..255. The authors have 28 for pixel values of 0..1;
    - `score`: the label's logit, as in the authors' code, or the label's probability.

    Fitted images are not clipped to 0..255. In the authors' code, g_n is the gradient with respect to the normalised
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
        assert total is not None, "`images` is at least 1"
        return total
