"""Fast gradient rescaling, FGRM: each pixel's step depends on the logarithm of its gradient."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from study.attacks.budget_spec import Positive
from study.attacks.kinds import State, Step, StepContext
from study.attacks.registry import register

if TYPE_CHECKING:
    from torch import Tensor


@register
class Rescaled(Step):
    """Fast gradient rescaling, FGRM: factor * sign(g) * sigmoid(z), where z is log2 |g| standardised over the image.

    Han et al. 2023, arXiv:2307.02828, use `factor` 2. g is the gradient. To standardise log2 |g|, the mean over the
    image is subtracted, and the difference is divided by the standard deviation. With this `factor`, a pixel with z = 0
    moves by the length of a step, because sigmoid(0) is 1/2. Pixels with a zero gradient do not move, and are left out
    of the mean and the standard deviation.

    `variant: authors` is the older rule in the authors' code. Let e be -log2 |g|, and m the largest e in each channel
    of an image. The weight of sign(g) is factor * log(1 + ceil(m - e + 1e-9) / m). This weight depends on the scale of
    the gradient, and needs a positive m. m is positive, for example, after a momentum that divides gradients by their
    mean absolute value. If m is not positive, 1 is used in its place.

    TransferAttack follows the paper's rule, but also uses the rescaled direction as the momentum of the next step. The
    paper and the authors' code do not.
    """

    name: ClassVar[str] = "rescaled"

    factor: Positive = 2.0
    variant: Literal["paper", "authors"] = "paper"

    def direction(self, gradient: Tensor, step: StepContext, state: State) -> Tensor:
        import torch

        size = gradient.abs()
        found = size > 0
        logarithm = torch.where(found, size, 1).log2()
        weight = self._standardised(logarithm, found) if self.variant == "paper" else _stairs(logarithm, found)
        return self.factor * gradient.sign() * weight

    def _standardised(self, logarithm: Tensor, found: Tensor) -> Tensor:
        import torch

        count = found.sum((1, 2, 3), keepdim=True)
        mean = logarithm.sum((1, 2, 3), keepdim=True) / count.clamp(min=1)
        away = torch.where(found, logarithm - mean, 0)
        deviation = (away.square().sum((1, 2, 3), keepdim=True) / (count - 1).clamp(min=1)).sqrt()
        return (away / torch.where(deviation > 0, deviation, 1)).sigmoid()


def _stairs(logarithm: Tensor, found: Tensor) -> Tensor:
    """Return log(1 + ceil(m - e + 1e-9) / m), (N, C, H, W), for e = -log2 |g| of a gradient g.

    `logarithm` is log2 |g|, and `found` is False where g is 0. m is the largest e in each channel of an image, among
    the pixels where g is not 0. If m is not positive, 1 is used in its place.
    """
    import torch

    exponent = -logarithm
    largest = torch.where(found, exponent, -torch.inf).amax((2, 3), keepdim=True)
    largest = torch.where(largest > 0, largest, 1)
    return ((largest - exponent + 1e-9).ceil() / largest).clamp(min=0).log1p()
