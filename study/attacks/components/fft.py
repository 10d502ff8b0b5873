"""Feature space fine-tuning (FFT): an objective that moves an attacked image further towards the target's features."""

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
    """Feature space fine-tuning (FFT): raises the sum of W f, where W supports the target and opposes the true label.

    Source: Zeng et al. 2024 (arXiv:2401.02727). W = A(x_first, target) - `against` A(x, true). The symbols are:

    - x: the clean image; x_first: the finished image of the attack's first stage; f: the features at `layer`;
    - A(x, y): the mean of d z_y(x * M_n) / d f over `masks` random masks M_n, divided by its L2 norm. z_y is the logit
      of label y. As in `fia`, a mask sets each value of the image to 0 with probability `drop`.

    FFT fine-tunes an image that another attack has made. The attack therefore needs `start: first-stage`, which begins
    at x_first.

    - `layer`: the default `depth 0.75` is the third of four stages, as in the paper. This is layer3 of a ResNet, the
      third block of a DenseNet, conv4 of a VGG, or Mixed_6e of Inception-v3. The published code takes Mixed_6b of
      Inception-v3, and the second transition of a DenseNet. Other values: `middle`, `stage 3` (the end of the third
      stage), or the name of a layer.

    In an untargeted attack, W is A(x_first, true) + `against` A(x, true), and the sum is lowered. (The paper has no
    untargeted attack.) In TransferAttack, masked pixels of the normalised image are 0, which is the mean colour. Here,
    masked values are black, as in `fia`.
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
        assert source.first is not None, "an attack with this objective has a first stage"
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
        assert total is not None, "`masks` is at least 1"
        return unit(total)
