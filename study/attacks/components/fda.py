"""Feature disruptive attack, FDA: in all layers, features above their position's mean are lowered, others raised."""

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
"""Below this sum of squares, a logarithm has no gradient."""


@register
class FDA(FeatureObjective):
    """Feature disruptive attack, FDA: raise the mean over layers of log |f below C| - log |f above C|, L2 norms.

    Ganeshan et al. 2019 (arXiv:1909.04385), section 3. f are the features of the attacked image. The clean image's
    features decide which of them are below or above C, the mean over the channels at each position (of tokens: of each
    token). Labels have no influence, so a targeted attack gives the same images as an untargeted one.

    - `read`: `blocks` are the outputs of all residual blocks, as in the authors' code for ResNet-152. In a network
      without residual blocks, `blocks` are its activations that are modules (all ReLUs of a VGG) or, without those, the
      ends of its stages (an Inception). The authors' code reads ReLUs and concatenations, 20 to 50 layers. Other
      values: `stages`, or a list of layers;
    - `variant: authors`: as in their code, features equal to C count as above; they are, for example, zeros at a
      position where all features are zero.

    The authors' code takes norms over the whole batch. So does torchattack, where C is the mean over the positions of a
    channel.
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
    """The logarithm of the L2 norm (N,) of features with these squares (N, …), over entries where `chosen` is 1."""
    return 0.5 * summed(squares * chosen).clamp_min(_LEAST).log()
