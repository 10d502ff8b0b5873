"""Feature importance-aware attack (FIA): an objective of features, weighted by gradients at randomly masked images."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field

from study.attacks.components.weighted_features import Score, WeightedFeatures, only, score_of
from study.attacks.kinds import PreparingSource
from study.attacks.registry import register

if TYPE_CHECKING:
    from torch import Tensor


@register
class FIA(WeightedFeatures):
    """Feature importance-aware attack (FIA): lowers the sum of W f, where W is the score's mean gradient over masks.

    Source: Wang et al. 2021 (arXiv:2107.14185), algorithm 1. x is the clean image, and f are the features at `layer`.
    W = sum_n d score(x * M_n) / d f, divided by its L2 norm. The sum is over `masks` random masks M_n. A mask sets each
    single value of the image to 0 (black) with probability `drop`. A targeted attack raises the sum of W f.

    - `layer`: `authors` is Mixed_5b of Inception-v3, Conv2d_4a of Inception-ResNet-v2, conv3_3 of VGG-16, and layer2.7
      of ResNet-152 (conv3_8). In networks that the authors did not use, `authors` is the same layer as `middle`, such
      as features.9 (Mixed_5e) of Inception-v4, or layer2 of ResNet-50. `middle` is also the authors' layer in VGG-16
      and ResNet-152. In Inception-v3, `middle` is Mixed_5d, and in Inception-ResNet-v2 it is `repeat`. Other values:
      `stage 2` (the end of the second stage), `depth 0.75`, or the name of a layer;
    - `score`: the label's logit, as in the paper and the authors' code, or the label's probability, as in
      TransferAttack and torchattack;
    - `drop`: 0.3 in the paper (0.1 against defences). The default of the authors' code is 0.1.

    TransferAttack takes the steps without momentum.
    """

    name: ClassVar[str] = "fia"
    method: ClassVar[str] = "fia"

    masks: Annotated[int, Field(ge=1, le=10_000)] = 30
    drop: Annotated[float, Field(ge=0, lt=1)] = 0.3
    score: Score = "logit"

    @property
    def preparing_gradients(self) -> int:
        return self.masks

    def weights(self, source: PreparingSource) -> Tensor:
        import torch

        score = score_of(source.labels, self.score)
        total: Tensor | None = None
        for number in range(self.masks):
            drawn = source.draws.uniform(source.origin.shape[1:], f"mask{number}")
            masked = torch.where(drawn < 2 * self.drop - 1, 0, source.origin)
            gradient = only(source.feature_gradients(masked, score))
            total = gradient if total is None else total + gradient
        assert total is not None, "`masks` is at least 1"
        return total
