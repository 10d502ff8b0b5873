"""Gaussian weights (MBA): gradients of networks with random weights, normal around the mean of a set of weights."""

from __future__ import annotations

import functools
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field

from study.attacks.component import HeldMemory
from study.attacks.kinds import ForwardChange, PassDraws
from study.attacks.registry import register

if TYPE_CHECKING:
    from torch import Tensor, nn

    from study.models.weights.weight_set import WeightSet

_Sample = dict[str, "Tensor"]


@register
class GaussianWeights(ForwardChange):
    """Gaussian weights (MBA): the weights of a source model are drawn anew, around the mean of several weights files.

    Source: Li et al. 2023, arXiv:2302.05086. A sample is mean + `scale` x standard deviation x N(0, 1), for each single
    weight. Mean and standard deviation are those of the model's set of weights files. Buffers, such as the statistics
    of batch norms, are not drawn: in every sample, a buffer is the mean of this buffer over the set.

    For each attack run, `samples` samples are drawn once. All images have the same samples. Without views, each step
    has the next sample. With `views: [{repeat: 20}]`, a step passes 20 copies of each image, and copy c of step t has
    the sample with the number (c + t) modulo `samples`. So 20 copies average the gradients of 20 samples. The samples
    stay in memory, and take `samples` times the memory of a source model's parameters.

    Other code: The authors' code draws 20 new samples in each step, and takes the gradient of one of them.
    TransferAttack draws 20 samples once, and takes the gradient for their mean logits. Both codes read the mean and the
    variance from the file of a training run.
    """

    name: ClassVar[str] = "gaussian_weights"
    main: ClassVar[str | None] = "scale"
    alone: ClassVar[bool] = True
    uses_weight_set: ClassVar[bool] = True

    scale: Annotated[float, Field(ge=0, le=100)] = 1.5
    samples: Annotated[int, Field(ge=1, le=10_000)] = 20

    @property
    def held_memory(self) -> HeldMemory:
        return HeldMemory(weights=self.samples)

    def on(self, model: nn.Module, name: str, draws: PassDraws) -> AbstractContextManager[None]:
        from study.models.swapped_weights import swapped, weight_set_of

        held = weight_set_of(name, model)
        made: dict[int, _Sample] = {}
        return swapped(model, held, functools.partial(self._chosen, name, held, draws, made))

    def _chosen(self, name: str, held: WeightSet, draws: PassDraws, made: dict[int, _Sample]) -> _Sample:
        number = (max(draws.step, 0) + draws.copy) % self.samples
        if number not in made:
            made[number] = self._sample(name, held, draws, number)
        return made[number]

    def _sample(self, name: str, held: WeightSet, draws: PassDraws, number: int) -> _Sample:
        found = dict(held.mean)
        drawn = draws.common(self, fixed=True)
        for parameter in held.parameters:
            mean = found[parameter]
            noise = drawn.normal(mean.shape, f"{number}.{name}.{parameter}")[0].to(mean)
            found[parameter] = mean + self.scale * held.deviation[parameter] * noise
        return found
