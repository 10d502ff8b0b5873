"""Feature disruptive attack (FDA): lowers features above the mean of their position, and raises the other features."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

from study.attacks.components.feature_layers import LayerSet, channel_axis, layers_in
from study.attacks.components.weighted_features import summed
from study.attacks.kinds import FeatureObjective, Goal, PreparingSource
from study.attacks.registry import register

if TYPE_CHECKING:
    from torch import Tensor, nn

_LEAST = 1e-30
"""Sums of squares below this value are replaced by this value, so the logarithm of their norm has no gradient."""


@register
class FDA(FeatureObjective):
    """Feature disruptive attack (FDA): raises features that are weak for the clean image, and lowers strong ones.

    Source: Ganeshan et al. 2019 (arXiv:1909.04385), section 3. The attack raises the mean over layers of
    log |f_weak| - log |f_strong| (L2 norms), where f are the features of the attacked image. At each position or token,
    C is the mean of the clean image's features over the channels. f_weak are the features at the places where the clean
    image's features are below C, and f_strong those where they are above C. Labels have no influence, so a targeted
    attack gives the same images as an untargeted attack.

    - `read`: the layers whose features are used. `blocks` are the outputs of all residual blocks, as in the authors'
      code for ResNet-152, or of the layers of a DenseNet's blocks. In a network without such blocks, `blocks` are all
      activations that are modules (all ReLUs of a VGG). In a network without such modules, such as the Inception-v3 of
      torchvision, `blocks` are the ends of the stages. Other values: `stages`, or a list of layers. For other networks,
      the authors' code reads 20 to 50 ReLUs and concatenations;
    - `variant`: what happens to features equal to C, for example where all features are 0. With `paper`, they are
      neither weak nor strong. With `authors`, they are strong, as in the authors' code.

    Other code: The authors' code takes norms over the whole batch. torchattack does the same, and its C is the mean
    over the positions of a channel.
    """

    name: ClassVar[str] = "fda"

    read: LayerSet = "blocks"
    variant: Literal["paper", "authors"] = "paper"

    def layers(self, network: nn.Module) -> Sequence[str]:
        return layers_in(network, self.read)

    @property
    def preparing_forwards(self) -> int:
        return 1

    def prepare(self, source: PreparingSource) -> Mapping[str, Tensor]:
        found = {}
        for name, features in source.features(source.origin).items():
            mean = features.mean(channel_axis(features), keepdim=True)
            above = features > mean if self.variant == "paper" else features >= mean
            found[f"below {name}"] = (features < mean).to(features.dtype)
            found[f"above {name}"] = above.to(features.dtype)
        return found

    def loss(
        self, features: Mapping[str, Tensor], prepared: Mapping[str, Tensor], logits: Tensor, labels: Tensor, goal: Goal
    ) -> Tensor:
        import torch

        total = torch.zeros_like(logits[:, 0])
        for name, values in features.items():
            squares = values.square()
            total = total + _log_norm(squares, prepared[f"below {name}"])
            total = total - _log_norm(squares, prepared[f"above {name}"])
        return total / len(features)


def _log_norm(squares: Tensor, chosen: Tensor) -> Tensor:
    """Return the logarithm of the L2 norm (N,) of those features where `chosen` (N, …) is 1.

    `squares` (N, …) are the squares of the features.
    """
    return 0.5 * summed(squares * chosen).clamp_min(_LEAST).log()
