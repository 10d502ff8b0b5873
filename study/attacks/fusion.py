"""The gradient of a group of source models, computed by the ensemble rule of an attack."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from study.attacks.gradient import BatchGradients
from study.attacks.kinds import AnyObjective, Goal, State, StepDraws
from study.attacks.passes import SourceGroup


@dataclass(frozen=True)
class GroupAt:
    """The gradients and logits that an ensemble rule can ask for at one step.

    Implements `study.attacks.kinds.ModelsAt`.
    """

    group: SourceGroup
    gradients: BatchGradients
    step: int
    steps: int
    size: float | Tensor
    epsilon: float | None
    draws: StepDraws
    project: Callable[[Tensor], Tensor]

    @property
    def count(self) -> int:
        return len(self.group.models)

    @property
    def weights(self) -> Sequence[float]:
        return self.group.weights

    @property
    def origin(self) -> Tensor:
        return self.gradients.origin

    @property
    def labels(self) -> Tensor:
        return self.gradients.labels

    @property
    def goal(self) -> Goal:
        return self.gradients.goal

    @property
    def objective(self) -> AnyObjective:
        return self.gradients.assembly.objective

    @property
    def common(self) -> StepDraws:
        assert self.gradients.common is not None, "an attack runs"
        return dataclasses.replace(self.draws, streams=self.gradients.common)

    def joint(self, image: Tensor, sample: int = 0) -> Tensor:
        return self.gradients.of(self.group, image, self.step, sample)

    def weighted(self, image: Tensor, weights: Tensor, sample: int = 0, among: Sequence[int] | None = None) -> Tensor:
        chosen = tuple(self.group.models[number] for number in (range(self.count) if among is None else among))
        group = SourceGroup(chosen, (1.0,) * len(chosen), 1.0, weights)
        return self.gradients.of(group, image, self.step, sample)

    def of(self, model: int, image: Tensor, sample: int = 0) -> Tensor:
        alone = SourceGroup((self.group.models[model],), (1.0,), 1.0)
        return self.gradients.of(alone, image, self.step, sample)

    def logits(self, model: int, image: Tensor) -> Tensor:
        return self.gradients.logits(self.group.models[model], image, self.step)


@dataclass(frozen=True)
class Fusion:
    """A function that returns the gradient of a group of source models at one step, computed by the ensemble rule."""

    group: SourceGroup
    gradients: BatchGradients
    step: int
    steps: int
    size: float | Tensor
    epsilon: float | None
    project: Callable[[Tensor], Tensor]
    state: State

    def __call__(self, image: Tensor, sample: int = 0) -> Tensor:
        """Return the gradient at `image`, float (N, C, H, W).

        `sample` is the index of this gradient among the gradients of the step.
        """
        rule = self.gradients.assembly.ensemble
        draws = StepDraws(self.gradients.streams, rule.stream, str(image.device), self.step, sample)
        models = GroupAt(
            self.group, self.gradients, self.step, self.steps, self.size, self.epsilon, draws, self.project
        )
        return rule.gradient(image, models, sample, self.state)
