"""OPS: random compositions of image operations, at random neighbours of the image."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import numpy as np
from pydantic import Field

from study.attacks.budget_spec import Positive
from study.attacks.component import AttackOutline
from study.attacks.components.places import without_epsilon
from study.attacks.image_operations import COMPOSED, IDENTITY, applied
from study.attacks.kinds import StepDraws, View, ViewContext
from study.attacks.registry import register
from study.devices.copies import uploaded

if TYPE_CHECKING:
    from torch import Tensor

_LEVELS = (2, 3, 4)
_RATIOS = (0.25, 0.5, 0.75, 1.0, 1.25, 1.5)


@register
class OperationSampling(View):
    """OPS: the image itself, and `operators` random compositions of operations on each of `samples` random neighbours.

    Guo et al., "Boosting Adversarial Transferability through Augmentation in Hypothesis Space", CVPR 2025. A neighbour
    is the image plus uniform noise within +-`beta` times epsilon times a ratio. The ratio is drawn from 0.25, 0.5, ...,
    1.5. A composition applies two to four operations, drawn from 31: identity, flips, rolls, rotations, scales and
    padded resizes. The attack averages the `samples` * `operators` + 1 gradients.

    The paper's results use up to 30 neighbours and 30 compositions. The default of the authors' code is 10 neighbours
    and 20 compositions. With `variant: authors`, the attack draws 6 * `samples` noise tensors once, and each step uses
    `samples` of them.

    In the authors' code and in TransferAttack, all images of a batch share noises and compositions. Here, with both
    variants, each image has its own.
    """

    name: ClassVar[str] = "ops"

    samples: Annotated[int, Field(ge=1, le=1000)] = 30
    operators: Annotated[int, Field(ge=1, le=1000)] = 30
    beta: Positive = 2.0
    variant: Literal["paper", "authors"] = "paper"

    @property
    def count(self) -> int:
        return 1 + self.samples * self.operators

    def conflicts(self, attack: AttackOutline) -> Iterator[str]:
        yield from without_epsilon(self.name, attack)

    def make(self, image: Tensor, given: ViewContext) -> Tensor:
        if given.copy == 0:
            return image
        view = image + self._noise(image, given)
        words = given.draws.integers(1 + max(_LEVELS), "composition")
        levels = [_LEVELS[word % len(_LEVELS)] for word in words[:, 0].tolist()]
        for place in range(max(levels)):
            chosen = [
                COMPOSED[word % len(COMPOSED)] if place < level else IDENTITY
                for word, level in zip(words[:, 1 + place].tolist(), levels, strict=True)
            ]
            view = applied(view, chosen, given.draws, f"operation{place}")
        return view

    def _noise(self, image: Tensor, given: ViewContext) -> Tensor:
        """Return the noise (N, C, H, W) of the neighbour from which the copy `given.copy` is made.

        All copies of a neighbour get the same noise.
        """
        import torch

        draws, epsilon = given.draws, given.epsilon
        assert epsilon is not None, "conflicts() requires an epsilon"
        assert isinstance(draws, StepDraws), "the draws of a neighbour are built from the fields of StepDraws"
        neighbour = (given.copy - 1) // self.operators
        first = draws.number - given.copy + 1
        own = StepDraws(draws.streams, draws.name, draws.device, draws.step, first + neighbour * self.operators)
        if self.variant == "paper":
            ratios = [_RATIOS[word % len(_RATIOS)] for word in own.integers(1, "ratio")[:, 0].tolist()]
            noise = own.uniform(image.shape[1:], "noise")
        else:
            common = StepDraws(draws.streams, draws.name, draws.device, draws.step, first)
            order = np.argsort(common.integers(len(_RATIOS) * self.samples, "choice"), axis=1, kind="stable")
            taken = order[:, neighbour].tolist()
            ratios = [_RATIOS[number // self.samples] for number in taken]
            noise = torch.stack([self._kept(image, draws, number)[row] for row, number in enumerate(taken)])
        radius = uploaded(np.array(ratios), image.device, image.dtype) * (self.beta * epsilon)
        return radius[:, None, None, None] * noise

    def _kept(self, image: Tensor, draws: StepDraws, number: int) -> Tensor:
        """Return the noise with the index `number`, uniform over (-1, 1), float (N, C, H, W).

        The noise is the same at every step.
        """
        return StepDraws(draws.streams, draws.name, draws.device, 0, number).uniform(image.shape[1:], "kept")
