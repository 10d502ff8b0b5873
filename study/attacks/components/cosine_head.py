"""The cosine head: the logits become cosines between the last features and the weights of each class."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, ClassVar

from study.attacks.kinds import ForwardChange, PassDraws
from study.attacks.registry import register
from study.errors import StudyError

if TYPE_CHECKING:
    from torch import Tensor, nn


@register
class CosineHead(ForwardChange):
    """The cosine head of logit calibration: the last layer returns the cosine of its input and each class's weights.

    Source: Weng et al. 2023, arXiv:2303.03680, the third calibration of the paper. (The first two are the objective
    `calibrated`.) The bias of the last layer is ignored. With the objective `logit`, a targeted attack turns the last
    features towards the target's weights. The lengths of the features and of the weights have no influence. Features or
    weights of length 0 have the cosine 0. In a distilled transformer, which has two last layers, both are changed.

    The last layer must be linear; otherwise StudyError is raised. A SqueezeNet, for example, ends with a convolution.
    """

    name: ClassVar[str] = "cosine-head"

    @contextlib.contextmanager
    def on(self, model: nn.Module, name: str, draws: PassDraws) -> Iterator[None]:
        from torch import nn

        from study.models.features import hooked
        from study.models.layers.catalogue import layers_of
        from study.models.layers.named import layer

        heads = layers_of(model).head
        for one in heads:
            if not isinstance(layer(model, one), nn.Linear):
                raise StudyError(
                    f"the last layer of '{name}', {one}, is no linear layer: cosine-head reads each class's weights",
                    accepted="source models whose last layer is linear, such as ResNets and vision transformers",
                    todo="leave this source out of the attack's experiments",
                )
        with hooked(model, heads) as hooks:
            for one in heads:
                hooks.enter_context(layer(model, one).register_forward_hook(_cosines))
            yield


def _cosines(module: nn.Linear, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
    from torch.nn import functional

    (features,) = inputs
    return functional.linear(functional.normalize(features, dim=-1), functional.normalize(module.weight, dim=-1))
