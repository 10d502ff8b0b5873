"""Po+Trip: the Poincaré distance of the logits to the target, plus a triplet loss of the target and true labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field

from study.attacks.kinds import FeatureObjective, Goal, PreparingSource
from study.attacks.registry import register

if TYPE_CHECKING:
    from torch import Tensor, nn

_LEAST = 1e-12


@register
class PoTrip(FeatureObjective):
    """Po+Trip: lower the Poincaré distance of the logits to the target, plus `weight` times a triplet loss.

    Li et al. 2020, "Towards Transferable Targeted Attack", CVPR 2020, section 3. The distance is
    arccosh(1 + 2 |u - v|^2 / ((1 - |u|^2) (1 - |v|^2))). u is z / |z|_1 for logits z. v is the target label's unit
    vector times 1 - `margin`. The triplet loss is max(0, |cos(z, true)| - |cos(z, target)| + `gap`). In this formula,
    `true` and `target` are the unit vectors of the true label and the target label. The objective reads only logits,
    and no features.

    - `weight`, `gap` and `margin` are lambda, gamma and xi of the paper: 0.01, 0.007 and 0.00001 in the authors' code.

    The paper has no untargeted attack. Here, an untargeted attack raises the distance to the true label. With several
    sources, the losses are averaged here, and the logits are averaged in the authors' code. TransferAttack exchanges
    the two labels of the triplet loss. TransferAttack also takes means over the batch before the maximum.
    """

    name: ClassVar[str] = "po-trip"

    weight: Annotated[float, Field(ge=0, le=1000)] = 0.01
    gap: Annotated[float, Field(ge=0, le=2)] = 0.007
    margin: Annotated[float, Field(gt=0, lt=1)] = 1e-5

    @property
    def reads_true_labels(self) -> bool:
        return True

    def layers(self, network: nn.Module) -> Sequence[str]:
        return ()

    def prepare(self, source: PreparingSource) -> Mapping[str, Tensor]:
        return {"true": source.true}

    def loss(
        self, features: Mapping[str, Tensor], prepared: Mapping[str, Tensor], logits: Tensor, labels: Tensor, goal: Goal
    ) -> Tensor:
        distance = self._poincare(logits, labels)
        if goal == "untargeted":
            return distance
        triplet = _cosine(logits, prepared["true"]) - _cosine(logits, labels) + self.gap
        return -distance - self.weight * triplet.clamp_min(0)

    def _poincare(self, logits: Tensor, labels: Tensor) -> Tensor:
        point = logits / logits.abs().sum(1, keepdim=True).clamp_min(_LEAST)
        inside = (1 - point.square().sum(1)).clamp_min(_LEAST)
        corner = 1 - self.margin
        # |u - v|^2 is expanded, so that no vector v is built. 1 - |v|^2 is computed as margin * (2 - margin), because a
        # difference of numbers near 1 would lose digits.
        apart = point.square().sum(1) - 2 * corner * _of(point, labels) + corner**2
        found: Tensor = (1 + 2 * apart / (inside * self.margin * (2 - self.margin))).arccosh()
        return found


def _cosine(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the absolute cosine (N,) between each image's logits and the unit vector of the image's label."""
    import torch

    found: Tensor = _of(logits, labels).abs() / torch.linalg.vector_norm(logits, dim=1).clamp_min(_LEAST)
    return found


def _of(values: Tensor, labels: Tensor) -> Tensor:
    return values.gather(1, labels[:, None]).squeeze(1)
