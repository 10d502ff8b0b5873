"""Feature space fine-tuning, FFT: a targeted attack's image moves further towards features that support the target."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field

from study.attacks.components.feature_layers import Layer
from study.attacks.components.weighted_features import WeightedFeatures, only, score_of, unit
from study.attacks.kinds import PreparingSource
from study.attacks.registry import register

if TYPE_CHECKING:
    from torch import Tensor


@register
class FFT(WeightedFeatures):
    """Feature space fine-tuning, FFT: raise the sum of W f, where W supports the target and opposes the true label.

    Zeng et al. 2024 (arXiv:2401.02727): W = A(x_first, target) - `against` A(x, true). x is the clean image, x_first
    the image of the attack's first stage, and f the features at `layer`. A(x, y) is the mean of d z_y(x * M_n) / d f
    over `masks` masks M_n, divided by its L2 norm, where z_y is the logit of label y. As in FIA, masks drop pixels with
    probability `drop`. The attack fine-tunes an image: `start: first-stage` begins at x_first.

    - `layer`: `depth 0.75` is the third of four stages, as in the paper: layer3 of a ResNet, the third block of a
      DenseNet, conv4 of a VGG, Mixed_6e of Inception-v3. The code in circulation takes Mixed_6b of Inception-v3, and a
      DenseNet's second transition. Other values: `stage 3`, or a layer's name.

    An untargeted attack, which the paper does not have, lowers the sum for W = A(x_first, true) + `against` A(x, true).
    TransferAttack drops pixels of the normalised image to 0, the mean colour; here they become black, as in FIA.
    """

    name: ClassVar[str] = "fft"
    method: ClassVar[str] = "fft"
    uses_first: ClassVar[bool] = True

    layer: Layer = "depth 0.75"
    masks: Annotated[int, Field(ge=1, le=10_000)] = 30
    drop: Annotated[float, Field(ge=0, lt=1)] = 0.3
    against: Annotated[float, Field(ge=0, le=1)] = 0.2

    @property
    def reads_true_labels(self) -> bool:
        return True

    @property
    def preparing_gradients(self) -> int:
        return 2 * self.masks

    def weights(self, source: PreparingSource) -> Tensor:
        assert source.first is not None, "a recipe with this part has a first stage"
        target = self._aggregated(source, source.first, score_of(source.labels, "logit"), "first")
        true = self._aggregated(source, source.origin, score_of(source.true, "logit"), "clean")
        return target - self.against * true if source.goal == "targeted" else target + self.against * true

    def _aggregated(
        self, source: PreparingSource, image: Tensor, score: Callable[[Tensor], Tensor], stream: str
    ) -> Tensor:
        import torch

        total: Tensor | None = None
        for number in range(self.masks):
            drawn = source.draws.uniform(image.shape[1:], f"{stream}{number}")
            masked = torch.where(drawn < 2 * self.drop - 1, 0, image)
            gradient = only(source.feature_gradients(masked, score))
            total = gradient if total is None else total + gradient
        assert total is not None, "there is a mask"
        return unit(total)
