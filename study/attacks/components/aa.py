"""Activation attack, AA: move the features towards the features of another image."""

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
    """Activation attack, AA: lower |f(x + d) - f(x_guide)|_2, where the guide is an image of the target's class.

    Inkawhich et al. 2019, "Feature Space Perturbations Yield More Transferable Adversarial Examples", CVPR 2019. x is
    the clean image, d the perturbation, and f the features at `layer`. For each image, the guide is drawn from a pool
    of `pool` selected images of the study: from those with the target label. In an untargeted attack, which the paper
    does not have, the guide is drawn from the images with other labels than the true label. The attack raises
    StudyError if no image of the pool has the target label: choose targets among the labels of the study's images, and
    a `pool` that contains them.

    - `layer`: `middle` unless given; the authors choose the layer by a measurement. Other values: `stage 3`, or a
      layer's name.

    The authors have a library of images of the target's class, and take the image whose features are furthest.
    TransferAttack takes the image of its data set that has the target's label. It uses layer2, 300 steps of 2 pixel
    values, and momentum.
    """

    name: ClassVar[str] = "aa"

    def loss(
        self, features: Mapping[str, Tensor], prepared: Mapping[str, Tensor], logits: Tensor, labels: Tensor, goal: Goal
    ) -> Tensor:
        import torch

        distance: Tensor = torch.linalg.vector_norm((only(features) - prepared["guide"]).flatten(1), dim=1)
        return -distance
