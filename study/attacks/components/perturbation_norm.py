"""A term of the objective that rewards a large or, with a negative `strength`, a small L2 norm of the perturbation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field

from study.attacks.kinds import Penalty
from study.attacks.registry import register

if TYPE_CHECKING:
    from torch import Tensor


@register
class PerturbationNorm(Penalty):
    """A term that is added to the loss: `strength` times the L2 norm of the perturbation, for pixel values in 0..1.

    Wei et al. 2022, arXiv:2109.04176, use this term so that perturbations spread. A negative strength keeps
    perturbations small. The gradient of the term is 0 at a zero perturbation. Here, the norm is taken for each image.
    The authors' code and TransferAttack take the norm of the whole batch, and add this norm to the mean loss.
    """

    name: ClassVar[str] = "perturbation-norm"
    main: ClassVar[str | None] = "strength"

    strength: Annotated[float, Field(ge=-1e6, le=1e6)] = 0.1

    def gradient(self, delta: Tensor) -> Tensor:
        import torch

        norm = torch.linalg.vector_norm(delta, dim=(1, 2, 3), keepdim=True)
        return self.strength / 255 * delta / torch.where(norm > 0, norm, 1)
