"""A penalty that keeps the RMSD of a perturbation close to a given RMSD."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field

from study.attacks.kinds import Penalty
from study.attacks.registry import register

if TYPE_CHECKING:
    from torch import Tensor


@register
class DistancePenalty(Penalty):
    """Distance penalty: the loss minus `below` ReLU(rmsd - d) and minus `above` ReLU(d - rmsd), where d is the RMSD.

    Source: Liu et al. 2017 (arXiv:1611.02770), appendix. d is the RMSD of the perturbation, and `rmsd` is the wanted
    RMSD. At a zero perturbation, the gradient of the penalty is 0.
    """

    name: ClassVar[str] = "distance"

    rmsd: Annotated[float, Field(ge=0, le=255)]
    below: Annotated[float, Field(ge=0, le=1e6)] = 0.0
    above: Annotated[float, Field(ge=0, le=1e6)] = 0.0

    def gradient(self, delta: Tensor) -> Tensor:
        import torch

        distance = delta.square().mean((1, 2, 3), keepdim=True).sqrt()
        slope = torch.where(distance < self.rmsd, self.below, 0.0)
        slope = torch.where(distance > self.rmsd, -self.above, slope)
        return slope * delta / (delta[0].numel() * torch.where(distance > 0, distance, 1))
