"""Transferable adversarial perturbations, TAP: cross-entropy, plus the distance to the clean features in all layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field

from study.attacks.components.feature_layers import LayerSet, layers_in
from study.attacks.components.objectives import CrossEntropy
from study.attacks.components.weighted_features import summed
from study.attacks.kinds import FeatureObjective, Goal, PreparingSource
from study.attacks.registry import register

if TYPE_CHECKING:
    from torch import Tensor, nn


@register
class TAP(FeatureObjective):
    """Transferable adversarial perturbations, TAP: raise cross-entropy + `weight` times the distance of features.

    Zhou et al. 2018, "Transferable Adversarial Perturbations", ECCV 2018. f are the features of a layer, x is the clean
    image and d the perturbation. The distance is the sum over layers of |T(f(x + d)) - T(f(x))|^2, with T(f) = sign(f)
    |f|^`power`. The paper has a third term, the sum of the smoothed perturbation's absolute values. This term is the
    penalty `low-frequency`. If the attack is targeted, the first term is the log probability of the target label.

    - `read`: the layers. With `blocks`, the layers are all residual blocks, or the layers of a DenseNet's blocks. In a
      network without such blocks, the layers are all activations that are modules. In a network without such modules,
      the layers are the ends of the stages. Other values are `stages`, or a list of layers. The paper takes all layers.
      The public code (of Huang et al. 2019, used by TransferAttack) takes the network's children;
    - `weight` is lambda, and `power` is alpha in the paper. The public code has 0.005 and 0.5.

    At a feature of 0, the gradient of T, which is infinite if `power` is below 1, is replaced by 0. TransferAttack sums
    the distance over the batch and averages the cross-entropy. The weight of the distance then depends on the size of
    the batch.
    """

    name: ClassVar[str] = "tap"

    read: LayerSet = "blocks"
    weight: Annotated[float, Field(ge=0, le=1000)] = 0.005
    power: Annotated[float, Field(gt=0, le=2)] = 0.5

    def layers(self, network: nn.Module) -> Sequence[str]:
        return layers_in(network, self.read)

    @property
    def preparing_forwards(self) -> int:
        return 1

    def prepare(self, source: PreparingSource) -> Mapping[str, Tensor]:
        return {name: self._compressed(features) for name, features in source.features(source.origin).items()}

    def loss(
        self, features: Mapping[str, Tensor], prepared: Mapping[str, Tensor], logits: Tensor, labels: Tensor, goal: Goal
    ) -> Tensor:
        total = CrossEntropy().loss(logits, labels, goal)
        for name, clean in prepared.items():
            moved = self._compressed(features[name]) - clean
            total = total + self.weight * summed(moved.square())
        return total

    def _compressed(self, features: Tensor) -> Tensor:
        import torch

        size = features.abs()
        return features.sign() * torch.where(size > 0, size, 1).pow(self.power)
