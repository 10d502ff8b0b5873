"""Random patch attack, RPA: features, weighted by mean gradients at images whose patches are multiplied by noise."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field

from study.attacks.components.weighted_features import Score, WeightedFeatures, only, score_of
from study.attacks.kinds import Draws, PreparingSource
from study.attacks.registry import register

if TYPE_CHECKING:
    from torch import Tensor


@register
class RPA(WeightedFeatures):
    """Random patch attack, RPA: the objective of the attack FIA, with masks that multiply patches by uniform noise.

    Zhang et al. 2022, "Enhancing the Transferability of Adversarial Examples with Random Patch", IJCAI 2022. x is the
    clean image, and f are the features at `layer`. The weights W of the features are the mean of d score(x * M_n) / d f
    over `masks` masks M_n, scaled to an L2 norm of 1. Each mask divides every channel into square patches. The side of
    the patches is a number in `sizes`; the masks use these numbers in turn. With probability `changed`, the mask has
    random numbers U(0, 1) in a patch, one for each pixel. In all other patches, and in incomplete patches at the right
    and lower edge, the mask is 1.

    - `layer`: as in FIA. With `authors`, the layer is Mixed_5b of Inception-v3, Conv2d_4a of Inception-ResNet-v2,
      conv3_3 of VGG-16, and layer2.7 of ResNet-152. In other networks, `authors` means `middle`, for example layer2 of
      ResNet-50;
    - `score`: the label's `logit`, as in the authors' code, or the label's `probability`, as in TransferAttack;
    - `sizes`: 1, 3, 5, 7 in the paper. The authors' code lists all four sizes, but a condition that is always true
      selects size 1 (`sizes: [1]`). TransferAttack uses 30 masks, and the sizes 1, 3 and 5.

    In the authors' code, all images of a batch have the same changed patches. If patches are larger than a pixel, that
    code changes exactly the share `changed` of the patches.
    """

    name: ClassVar[str] = "rpa"
    method: ClassVar[str] = "fia"

    masks: Annotated[int, Field(ge=1, le=10_000)] = 60
    sizes: Annotated[tuple[Annotated[int, Field(ge=1, le=512)], ...], Field(strict=False, min_length=1)] = (1, 3, 5, 7)
    changed: Annotated[float, Field(ge=0, le=1)] = 0.3
    score: Score = "logit"

    @property
    def preparing_gradients(self) -> int:
        return self.masks

    def weights(self, source: PreparingSource) -> Tensor:
        score = score_of(source.labels, self.score)
        total: Tensor | None = None
        for number in range(self.masks):
            size = self.sizes[number % len(self.sizes)]
            mask = self._mask(source.draws, source.origin.shape[1:], size, number)
            gradient = only(source.feature_gradients(source.origin * mask, score))
            total = gradient if total is None else total + gradient
        assert total is not None, "`masks` is at least 1"
        return total

    def _mask(self, draws: Draws, shape: tuple[int, ...], size: int, number: int) -> Tensor:
        """Return the mask with the index `number`, float (N, C, H, W), with patches of `size` x `size` pixels.

        `shape` is (C, H, W).
        """
        import torch

        channels, height, width = shape
        rows, columns = height // size, width // size
        chosen = draws.uniform((channels, rows, columns), f"patches{number}") < 2 * self.changed - 1
        whole = chosen.repeat_interleave(size, 2).repeat_interleave(size, 3)
        inside = torch.nn.functional.pad(whole, (0, width - whole.shape[3], 0, height - whole.shape[2]))
        noise = (draws.uniform(shape, f"noise{number}") + 1) / 2
        return torch.where(inside, noise, 1)
