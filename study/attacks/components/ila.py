"""Intermediate level attack, ILA: features move on in the direction in which another attack has moved them."""

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
    """Intermediate level attack, ILA: raise <f(x + d) - f(x), v>, with v = f(first stage's image) - f(x), per image.

    Huang et al. 2019 (arXiv:1907.10823), algorithm 1. x is the clean image, d the perturbation, and f the features at
    `layer`. The attack needs a first stage, such as `first: bim`, and starts from the clean image again. Labels are
    used in the first stage only. The inner product is divided by |v|^2, which changes no sign step on one model.

    - `layer`: `authors` is layer3 of ResNet-18, and `middle` in other networks, where the authors chose layers by a
      measurement (section 4). `middle` is layer2 of ResNet-50 and ResNet-152, conv3_3 of VGG-16, Mixed_5d of
      Inception-v3, Mixed_5e of Inception-v4. Other values: `stage 3`, or a layer's name;
    - `form`: `projection` is the paper's ILAP, the inner product above. `flexible` is its ILAF: the cosine of the two
      vectors plus `magnitude` times |f(x + d) - f(x)| / |v|;
    - `magnitude`: alpha in the paper, 1 in its code.

    The authors' code and TransferAttack take one inner product over the whole batch. For the projection, their steps
    are the same as here. For the flexible form, their steps depend on the other images of the batch.
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
        assert source.first is not None, "a recipe with this part has a first stage"
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
        # At the clean image, the gradient of the length is 0, and the cosine has the gradient of the projection.
        own = torch.linalg.vector_norm(moved, dim=1)
        found: Tensor = along / torch.where(own > 0, own, 1) + self.magnitude * own / length
        return found
