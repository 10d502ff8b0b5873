"""Feature disruptive attack, FDA: features above their place's mean are lowered in all layers, those below raised."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

from study.attacks.components.feature_layers import LayerSet, channel_axis, layers_in
from study.attacks.kinds import FeatureObjective, Goal, PreparingSource
from study.attacks.registry import register

if TYPE_CHECKING:
    from torch import Tensor, nn

_LEAST = 1e-30
"""Below this sum of squares a logarithm has no gradient."""


@register
class FDA(FeatureObjective):
    """Feature disruptive attack, FDA: raise the mean over layers of log |f below C| - log |f above C|, L2 norms.

    Ganeshan et al. 2019 (arXiv:1909.04385), section 3. f are the features of the attacked image; which of them count as
    below and above is found in the clean image, where C is the mean over the channels at each place (of tokens: of each
    token). Labels do not count, so a targeted attack is an untargeted one.

    - `read`: `blocks` are the outputs of all residual blocks, as in the authors' code for ResNet-152; where a network
      has none, its activations that are modules (all ReLUs of a VGG); else the ends of its stages (an Inception). Their
      code reads ReLUs and concatenations, 20 to 50 layers. `stages` or a list are others;
    - `variant: authors`: their code counts features equal to C, such as the zeros of a place where all are zero, as
      above.

    The authors' code takes norms over the whole batch; torchattack too, with C the mean of a channel's places.
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
            found[name] = (features - features.mean(channel_axis(features), keepdim=True)).sign()
        return found

    def loss(
        self, features: Mapping[str, Tensor], prepared: Mapping[str, Tensor], logits: Tensor, labels: Tensor, goal: Goal
    ) -> Tensor:
        import torch

        total = torch.zeros_like(logits[:, 0])
        for name, side in prepared.items():
            squares = features[name].square()
            above = side > 0 if self.variant == "paper" else side >= 0
            total = total + _log_norm(squares, side < 0) - _log_norm(squares, above)
        return total / len(prepared)


def _log_norm(squares: Tensor, chosen: Tensor) -> Tensor:
    """The logarithm of the L2 norm (N,) of the features with these squares (N, …) at the `chosen` places."""
    return 0.5 * (squares * chosen).flatten(1).sum(1).clamp_min(_LEAST).log()
