"""Activation attack (AA): an objective that moves the features of an image towards the features of another image."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

from study.attacks.components.guides import GuidedFeatures
from study.attacks.components.weighted_features import only
from study.attacks.kinds import Goal
from study.attacks.registry import register

if TYPE_CHECKING:
    from torch import Tensor


@register
class AA(GuidedFeatures):
    """Activation attack (AA): lowers the distance |f(x + d) - f(x_guide)|_2, where the guide has the target label.

    Source: Inkawhich et al. 2019, "Feature Space Perturbations Yield More Transferable Adversarial Examples", CVPR
    2019. x is the clean image, d the perturbation, and f the features at `layer`.

    The guide x_guide is another image of the study. For each image, the guide is drawn from a pool of `pool` images. In
    a targeted attack, the guide has the target label. In an untargeted attack, the guide has any label but the true
    label (the paper has no untargeted attack). The attack raises StudyError if the pool has no such image. To prevent
    this, choose targets among the labels of the study's images, and a `pool` that is large enough to contain them.

    - `layer`: `middle` by default. The authors choose the layer by a measurement. Other values: `stage 3` (the end of
      the third stage), `depth 0.75`, or the name of a layer.

    Other code: The authors have a library of images of the target's class. From this library, they take the image with
    the most distant features. TransferAttack takes the image of its data set that has the target label. TransferAttack
    uses layer2, 300 steps of 2 pixel values, and momentum.
    """

    name: ClassVar[str] = "aa"

    def loss(
        self, features: Mapping[str, Tensor], prepared: Mapping[str, Tensor], logits: Tensor, labels: Tensor, goal: Goal
    ) -> Tensor:
        import torch

        distance: Tensor = torch.linalg.vector_norm((only(features) - prepared["guide"]).flatten(1), dim=1)
        return -distance
