"""An objective that makes the embedding of an image similar to the embedding of a goal image."""

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
    """M-Attack: raises the cosine cos(f(x + d), f(x_goal)), where the goal image x_goal has the target label.

    Source: Li et al. 2025, arXiv:2503.10635. x is the clean image, d the perturbation, and f the embedding.

    The goal image is another image of the study. For each image, the goal image is drawn from a pool of `pool` images.
    In a targeted attack, the goal image has the target label. In an untargeted attack, the goal image has any label but
    the true label (the paper has no untargeted attack). The attack raises StudyError if the pool has no such image. To
    prevent this, choose only target labels that some images of the study have, and a large `pool`.

    - `layer`: the default `embedding` is the output of the image encoder in a zero-shot classifier such as CLIP. In
      other networks, `embedding` is the end of the last stage. Other values: `middle`, `stage 3` (the end of the third
      stage), `depth 0.75`, or the name of a layer.

    The embedding of x_goal is computed once, for the whole image. The authors crop x_goal anew in each step, as they
    crop x + d (see the view `crop`).
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
