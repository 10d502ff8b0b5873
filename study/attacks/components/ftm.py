"""Feature tuning mixup, FTM: clean feature mixup, with small feature perturbations tuned against the attack."""

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
    """Feature tuning mixup, FTM: clean feature mixup, with a perturbation of features that is tuned against the attack.

    Liang et al. 2025, arXiv:2411.15553. In every pass, each layer that CFM may mix also gets a perturbation p. It has a
    direction t, and a length of `size` times the L2 norm of the layer's features. The features f become (1 - a)
    (f + p) + a f', where f' are clean features of another image, and a = 0 if the layer is not mixed. If the layer is
    mixed, t then takes a step against the attack: it becomes t minus the gradient of the loss with respect to p. For
    every image, t starts at 0.

    Features are taken after a convolution's batch norm. TransferAttack's port of the authors' code takes them before
    the batch norm. In the port, the step is the gradient with respect to t, and 1e-7 is added to the length of t: the
    first step is then 1e7 times as long as the following ones, and t never changes its direction again.
    `variant: authors` takes this gradient. The port itself requests no gradient with respect to t, so that it remains
    CFM. The step along the gradient with respect to p is our reading of the paper.
    """

    name: ClassVar[str] = "ftm"
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
    """The directions of the perturbations of one model's features, for the images of one batch."""

    def __init__(self, draws: PassDraws) -> None:
        self._draws = draws
        self._batch = -1
        self._directions: dict[str, Tensor] = {}

    def of(self, name: str, features: Tensor) -> tuple[Tensor, Tensor]:
        """For each row of the pass, the index of its image in the batch (rows,), and the direction for it (rows, …)."""
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
        """Move the directions of these `images` by -`step`."""
        held = self._directions[name]
        held[images] -= step.to(held.dtype)
