"""The goal is another image: raise the cosine of both images' embeddings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar

from study.attacks.components.feature_layers import Layer, layer_of
from study.attacks.components.guides import GuidedFeatures
from study.attacks.components.weighted_features import only
from study.attacks.kinds import Goal
from study.attacks.registry import register

if TYPE_CHECKING:
    from torch import Tensor, nn

_SMALLEST = 1e-12


@register
class ImageGoal(GuidedFeatures):
    """Raise cos(f(x + d), f(x_goal)), where the goal image x_goal is an image of the target's class.

    The objective of M-Attack: Li et al. 2025, arXiv:2503.10635. x is the clean image, d the perturbation, and f the
    embedding. For each image, the goal image is drawn from a pool of `pool` selected images of the study: from those
    with the target label. In an untargeted attack, which the paper does not have, it is drawn from the images with
    other labels than the true label. The attack raises StudyError if no image of the pool has the target label: choose
    targets among the labels of the study's images, and a `pool` that contains them.

    - `layer`: `embedding` unless given: the output of the image encoder of a zero-shot classifier such as CLIP, and the
      end of the last stage of another network. Other values: `middle`, `stage 3`, or a layer's name.

    The embedding of x_goal is computed once, for the whole image. The authors crop x_goal anew in each step, as they do
    with x + d (see `crop`).
    """

    name: ClassVar[str] = "image-goal"

    layer: Layer = "embedding"

    def layers(self, network: nn.Module) -> Sequence[str]:
        if self.layer != "embedding":
            return super().layers(network)
        from study.models.zero_shot import ENCODER, ZeroShot

        return [ENCODER if isinstance(network, ZeroShot) else layer_of(network, "depth 1", self.name)]

    def loss(
        self, features: Mapping[str, Tensor], prepared: Mapping[str, Tensor], logits: Tensor, labels: Tensor, goal: Goal
    ) -> Tensor:
        import torch

        here, there = only(features).flatten(1), prepared["guide"].flatten(1)
        lengths = (torch.linalg.vector_norm(one, dim=1).clamp(min=_SMALLEST) for one in (here, there))
        cosine: Tensor = (here * there).sum(1)
        for length in lengths:
            cosine = cosine / length
        return cosine
