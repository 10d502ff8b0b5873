"""Feature tuning mixup (FTM): clean feature mixup (`cfm`) with an additional small perturbation of the features.

The perturbation of the features is tuned so that it works against the attack.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import Field

from study.attacks.components.cfm import FeatureMixup, Mixup
from study.attacks.kinds import PassDraws
from study.attacks.registry import register

if TYPE_CHECKING:
    from torch import Tensor


@register
class FeatureTuningMixup(FeatureMixup):
    """Feature tuning mixup (FTM): clean feature mixup, plus a feature perturbation that is tuned against the attack.

    Source: Liang et al. 2025, arXiv:2411.15553. In every pass, each layer that `cfm` may mix also gets a perturbation p
    of its features f. p has a direction t, and a length of `size` times the L2 norm of f. The features become
    (1 - a) (f + p) + a f'. f' are the features of a clean pool image. If the layer is not mixed in this pass, a is 0.

    Tuning: for every image, t starts at 0. After each pass in which the layer is mixed, t takes a step against the
    attack. The new t is t minus the gradient of the loss with respect to p. This step is our reading of the paper.

    Features are taken after the batch norm of a convolution. TransferAttack's port of the authors' code takes features
    before the batch norm.

    `variant: authors` takes the step of this port: the gradient with respect to t, with 1e-7 added to the length of t.
    The first step is then 1e7 times as long as the following steps, so t never changes its direction again. The port
    itself requests no gradient with respect to t. Its t stays 0, and its images are those of CFM.
    """

    name: ClassVar[str] = "ftm"
    version: ClassVar[int] = 2
    alone: ClassVar[bool] = True

    size: Annotated[float, Field(ge=0, le=1)] = 0.01

    def mixing(self, mixup: Mixup) -> Any:
        import torch

        tuning = _Tuning(mixup.draws)

        def lengths(values: Tensor) -> Tensor:
            found: Tensor = torch.linalg.vector_norm(values.flatten(1), dim=1)
            return found.view(-1, *[1] * (values.ndim - 1))

        def change(name: str, features: Tensor) -> Tensor:
            found = mixup.of(name, features)
            images, direction = tuning.of(name, features)
            own = lengths(direction)
            own = own + 1e-7 if self.variant == "authors" else torch.where(own > 0, own, 1)
            scale = self.size * lengths(features.detach()) / own
            tuned = features + scale * direction
            if found is None:
                return tuned
            rows, others, shares = found
            mixed = tuned.index_copy(0, rows, (1 - shares) * tuned[rows] + shares * others)
            if mixed.requires_grad:

                def tune(gradient: Tensor) -> None:
                    step = (1 - shares) * gradient[rows]
                    tuning.move(name, images[rows], scale[rows] * step if self.variant == "authors" else step)

                mixed.register_hook(tune)  # type: ignore[no-untyped-call]
            return mixed

        return change


class _Tuning:
    """The directions t of the feature perturbations in one model, for the images of one batch."""

    def __init__(self, draws: PassDraws) -> None:
        self._draws = draws
        self._batch = -1
        self._directions: dict[str, Tensor] = {}

    def of(self, name: str, features: Tensor) -> tuple[Tensor, Tensor]:
        """Return two tensors with a row for each copy of an image in the pass.

        The first one (rows,) has the index of the image in the batch. The second one (rows, …) has the direction of
        layer `name` for the image. The direction is 0 at the start of a batch.
        """
        import torch

        if self._draws.batch != self._batch:
            self._batch, self._directions = self._draws.batch, {}
        count = len(self._draws.origin)
        images = self._draws.of_images(torch.arange(count, device=features.device))
        held = self._directions.get(name)
        if held is None or held.shape[1:] != features.shape[1:]:
            held = self._directions[name] = features.new_zeros((count, *features.shape[1:]))
        return images, held[images]

    def move(self, name: str, images: Tensor, step: Tensor) -> None:
        """Move the directions of layer `name` by -`step` (M, …), for the images with the indices `images` (M,)."""
        held = self._directions[name]
        held[images] -= step.to(held.dtype)
