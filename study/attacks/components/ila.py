"""Intermediate level attack (ILA): moves features further in the direction in which another attack has moved them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from study.attacks.components.feature_layers import Layer, layer_of
from study.attacks.components.weighted_features import only
from study.attacks.kinds import FeatureObjective, Goal, PreparingSource
from study.attacks.registry import register

if TYPE_CHECKING:
    from torch import Tensor, nn


@register
class ILA(FeatureObjective):
    """Intermediate level attack (ILA): raises <f(x + d) - f(x), v>, where v = f(x_first) - f(x), for each image.

    Source: Huang et al. 2019 (arXiv:1907.10823), algorithm 1. x is the clean image, d the perturbation, and f the
    features at `layer`. x_first is the finished image of the attack's first stage, such as `first: bim`. The attack
    itself starts from the clean image again. Only the first stage uses labels. The inner product is divided by |v|^2.
    With one source model and sign steps, this division changes nothing.

    - `layer`: `authors` is layer3 of ResNet-18, and `middle` in other networks. For these networks, the authors chose
      layers by a measurement (section 4). `middle` is layer2 of ResNet-50 and ResNet-152, conv3_3 of VGG-16, Mixed_5d
      of Inception-v3, and Mixed_5e of Inception-v4. Other values: `stage 3` (the end of the third stage),
      `depth 0.75`, or the name of a layer;
    - `form`: `projection` is the inner product above, which the paper calls ILAP. `flexible` is the paper's ILAF: the
      cosine of f(x + d) - f(x) and v, plus `magnitude` times |f(x + d) - f(x)| / |v|;
    - `magnitude`: the paper calls this parameter alpha. The default 1 is the number of the authors' code.

    Other code: The authors' code and TransferAttack take one inner product over the whole batch. For `projection`, this
    gives the same steps as here. For `flexible`, the steps depend on the other images of the batch.
    """

    name: ClassVar[str] = "ila"
    uses_first: ClassVar[bool] = True

    layer: Layer = "authors"
    form: Literal["projection", "flexible"] = "projection"
    magnitude: Annotated[float, Field(ge=0, le=1000)] = 1.0

    def layers(self, network: nn.Module) -> Sequence[str]:
        return [layer_of(network, self.layer, self.name)]

    @property
    def preparing_forwards(self) -> int:
        return 2

    def prepare(self, source: PreparingSource) -> Mapping[str, Tensor]:
        assert source.first is not None, "an attack with this objective has a first stage"
        clean = only(source.features(source.origin))
        return {"clean": clean, "way": only(source.features(source.first)) - clean}

    def loss(
        self, features: Mapping[str, Tensor], prepared: Mapping[str, Tensor], logits: Tensor, labels: Tensor, goal: Goal
    ) -> Tensor:
        import torch

        way = prepared["way"].flatten(1)
        moved = (only(features) - prepared["clean"]).flatten(1)
        length = torch.linalg.vector_norm(way, dim=1)
        length = torch.where(length > 0, length, 1)
        along: Tensor = (moved * way).sum(1) / length
        if self.form == "projection":
            return along / length
        # At the clean image, `own` is 0, and its gradient is 0. The gradient of the sum then has the direction of the
        # projection's gradient.
        own = torch.linalg.vector_norm(moved, dim=1)
        found: Tensor = along / torch.where(own > 0, own, 1) + self.magnitude * own / length
        return found
