"""Drawn weights (LGV): each step takes the gradient of a network with the next weights of a set, in random order."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, ClassVar

from study.attacks.kinds import ForwardChange, PassDraws
from study.attacks.registry import register

if TYPE_CHECKING:
    from torch import Tensor, nn

    from study.models.weights.weight_set import WeightSet


@register
class DrawnWeights(ForwardChange):
    """Drawn weights (LGV): in each step, a source model has the next weights of its set of weights, in random order.

    Source: Gubri et al. 2022, arXiv:2207.13129, section 4. In the paper, the set has the weights through which SGD
    passes at a high learning rate. The order of the weights is drawn once for an attack run, without replacement. After
    the last weights, the order starts again. Within a step, the weights stay the same for all images, copies and
    further gradients (neighbours). If all sets of an ensemble have the same size, they also have the same order.

    Other code: The codes of the authors and of TransferAttack take the next weights in each forward pass. A step with
    views or neighbours therefore uses several weights. The next batch of images continues with the next weights.
    """

    name: ClassVar[str] = "drawn_weights"
    uses_weight_set: ClassVar[bool] = True

    def on(self, model: nn.Module, name: str, draws: PassDraws) -> AbstractContextManager[None]:
        from study.models.swapped_weights import swapped, weight_set_of

        held = weight_set_of(name, model)
        return swapped(model, held, functools.partial(self._chosen, held, draws))

    def _chosen(self, held: WeightSet, draws: PassDraws) -> Mapping[str, Tensor]:
        words = draws.common(self, fixed=True).integers(len(held))[0]
        return held.states[int(words.argsort(kind="stable")[max(draws.step, 0) % len(held)])]
