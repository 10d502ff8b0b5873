"""Random patch attack, RPA: features weighted by gradients averaged over images with patches of noise."""

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
    """Random patch attack, RPA: as the attack FIA, with masks that multiply whole patches by noise U(0, 1).

    Zhang et al. 2022, "Enhancing the Transferability of Adversarial Examples with Random Patch", IJCAI 2022: W is the
    mean of d score(x * M_n) / d f over `masks` masks M_n, divided by its L2 norm. x is the clean image, and f are the
    features at `layer`. Mask n cuts each channel into patches with a side of `sizes[n]` pixels; masks use the sizes in
    turn. With probability `changed`, the mask has random numbers U(0, 1) in a patch, one for each pixel. Elsewhere, and
    in incomplete patches at the right and lower edge, the mask is 1.

    - `layer`: as in FIA. `authors` is Mixed_5b of Inception-v3, Conv2d_4a of Inception-ResNet-v2, conv3_3 of VGG-16,
      layer2.7 of ResNet-152, and `middle` in other networks, such as layer2 of ResNet-50;
    - `score`: the label's logit in the authors' code, its probability in TransferAttack;
    - `sizes`: 1, 3, 5, 7 in the paper. The authors' code lists all four, but a condition that always holds picks size 1
      (`sizes: [1]`). TransferAttack takes the sizes 1, 3, 5, and 30 masks.

    For patches larger than a pixel, the authors' code changes exactly the share `changed` of the patches, and the same
    patches in all images of a batch.
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
        assert total is not None, "there is a mask"
        return total

    def _mask(self, draws: Draws, shape: tuple[int, ...], size: int, number: int) -> Tensor:
        """Mask `number` (N, C, H, W) with patches of `size` x `size` pixels."""
        import torch

        channels, height, width = shape
        rows, columns = height // size, width // size
        chosen = draws.uniform((channels, rows, columns), f"patches{number}") < 2 * self.changed - 1
        whole = chosen.repeat_interleave(size, 2).repeat_interleave(size, 3)
        inside = torch.nn.functional.pad(whole, (0, width - whole.shape[3], 0, height - whole.shape[2]))
        noise = (draws.uniform(shape, f"noise{number}") + 1) / 2
        return torch.where(inside, noise, 1)
