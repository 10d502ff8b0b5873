"""Gradient ascent on the loss of one batch of images.

It returns the perturbations before they are rounded to 8 bits.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from study.attacks.fusion import Fusion
from study.attacks.gradient import BatchGradients
from study.attacks.kinds import (
    FeatureObjective,
    GradientAt,
    Inner,
    Point,
    Pool,
    Program,
    ProgramContext,
    State,
    StepContext,
    StepDraws,
)
from study.attacks.passes import Logits, SourceGroup, forward
from study.attacks.preparing import Preparing, layers_of
from study.attacks.recipe import Attack
from study.errors import StudyError
from study.events import activity
from study.reproducibility import numerics


@dataclass
class _Climber:
    """What the components of an attack remember from step to step for one group of source models."""

    group: SourceGroup
    ensemble: State
    points: list[State]
    updates: list[State]
    step: State


class Ascent:
    """Gradient ascent on the loss of one batch of images.

    The loop updates the perturbation, not the perturbed image. All pixels of an FGS (fast gradient sign) step then have
    exactly the same magnitude, because the step is not rounded in the sum of image and step.
    """

    def __init__(
        self,
        attack: Attack,
        *,
        sources: Sequence[SourceGroup],
        gradients: BatchGradients,
        origin: Tensor,
        rmsd: Tensor | None,
        path: Sequence[Tensor],
        true: Tensor,
        pool: Pool | None,
    ) -> None:
        """Prepare the attack on the clean images `origin` (N, C, H, W).

        `rmsd` (N,) holds the radius of each image; None if the budget has no radius, or has several lengths. `path`
        holds the images (N, C, H, W) of the attack's first stage: one tensor for each of its checkpoints, then the
        finished images. It is empty without a first stage. `true` (N,) are the true labels.
        """
        self._attack = attack
        self._path = path
        self._first = path[-1] if path else None
        self._true = true
        self._pool = pool
        self._parts = attack.assembly
        self._groups = sources
        self._gradients = gradients
        self._streams = gradients.streams
        self._origin = origin
        self._rmsd = rmsd
        self._project = self._parts.budget.projection(origin, attack.budget.levels, rmsd)
        self.finite = torch.ones(len(origin), dtype=torch.bool, device=origin.device)

    def run(self, models: Sequence[Logits]) -> list[Tensor]:
        """Return one perturbation, float (N, C, H, W), for each of `Attack.scored_points`.

        A point is a number of steps and a length of the budget. A perturbation is not projected onto the budget after
        its last step: `finish` in `study.attacks.finish` does this.
        """
        self._prepare(models)
        if self._parts.program is None:
            return self._ascend(None)
        return self._run_program(self._parts.program, models)

    def _prepare(self, models: Sequence[Logits]) -> None:
        objective = self._parts.objective
        if not isinstance(objective, FeatureObjective):
            return
        gradients = self._gradients
        for number, model in enumerate(models):
            draws = StepDraws(self._streams, objective.stream, str(self._origin.device), number=number)
            layers = gradients.layers[id(model)] = layers_of(objective, model)
            source = Preparing(
                model=model,
                names=layers,
                origin=self._origin,
                labels=gradients.labels,
                goal=gradients.goal,
                draws=draws,
                true=self._true,
                wanted=gradients.views.wanted,
                first=self._first,
                path=self._path,
                pool=self._pool,
                precision=gradients.precision,
            )
            gradients.prepared[id(model)] = objective.prepare(source)

    def _ascend(self, start: Tensor | None) -> list[Tensor]:
        """Run the loop, and return the perturbation at each of `Attack.scored_points`.

        The loop begins at the perturbation `start`. If `start` is None, it begins where the attack's own start
        component says.
        """
        attack = self._attack
        levels = attack.budget.levels
        delta = self._start() if start is None else start
        if attack.steps == 0:
            return [delta] * len(levels)
        parts = self._parts
        climbers = [
            _Climber(group, {}, [{} for _ in parts.points], [{} for _ in parts.updates], {}) for group in self._groups
        ]
        found = []
        stops = {steps for steps, _ in attack.scored_points}
        for step in range(attack.steps):
            if step or attack.start is not None or start is not None:
                delta = self._project(delta)
            sizes = [self._size(level) for level in levels]
            direction = self._direction(climbers, delta, step, sizes[0])
            if len(sizes) == 1:
                moved = [direction.mul_(sizes[0]).add_(delta)]
            else:
                moved = [delta + size * direction for size in sizes]
            if step + 1 in stops:
                found += moved
            delta = moved[0]
            activity.here.step()
        return found

    def _start(self) -> Tensor:
        start = self._parts.start
        if start is None:
            return torch.zeros_like(self._origin)
        if start.at_first:
            assert self._first is not None, "a recipe with this start has a first stage"
            return self._first - self._origin
        draws = StepDraws(self._streams, start.stream, str(self._origin.device))
        return start.perturbation(self._origin, self._attack.budget, self._rmsd, draws)

    def _direction(self, climbers: Sequence[_Climber], delta: Tensor, step: int, size: float | Tensor) -> Tensor:
        """Return the step direction (N, C, H, W) at `delta`.

        It is the sum of the directions of all groups, weighted by their shares.
        """
        total: Tensor | None = None
        for climber in climbers:
            part = self._of_group(climber, delta, step, size)
            share = climber.group.share
            part = part if share == 1 else share * part
            total = part if total is None else total + part
        assert total is not None, "an attack run has a source model"
        return total

    def _of_group(self, climber: _Climber, delta: Tensor, step: int, size: float | Tensor) -> Tensor:
        """Return the step direction (N, C, H, W) of one group of source models.

        The point rules compute a gradient, the updates change this gradient, and the step rule turns it into a
        direction.
        """
        parts, attack = self._parts, self._attack
        accumulated = [
            found
            for update, state in zip(parts.updates, climber.updates, strict=True)
            if (found := update.accumulated(state)) is not None
        ]
        momentum, decay = accumulated[-1] if accumulated else (None, 0.0)
        context = StepContext(
            step=step,
            steps=attack.steps,
            origin=self._origin,
            delta=delta,
            size=size,
            epsilon=attack.budget.first_epsilon,
            gradient=self._checked(self._fusion(climber.group, step, size, climber.ensemble)),
            streams=self._streams,
            goal=self._gradients.goal,
            project=self._project,
            momentum=momentum,
            decay=decay,
            first=self._first,
            losses=self._gradients.last_losses,
            pool=self._pool,
        )
        ask: Inner = lambda place: context.gradient(self._origin + place, 0, place)  # noqa: E731
        for point, state in zip(reversed(parts.points), reversed(climber.points), strict=True):
            ask = functools.partial(_asked, point, context, ask, state)
        gradient = ask(delta)
        for update, state in zip(parts.updates, climber.updates, strict=True):
            gradient = update.update(gradient, context, state)
        return parts.step.direction(gradient, context, climber.step)

    def _fusion(self, group: SourceGroup, step: int, size: float | Tensor, state: State) -> Fusion:
        attack = self._attack
        return Fusion(
            group, self._gradients, step, attack.steps, size, attack.budget.first_epsilon, self._project, state
        )

    def _checked(self, gradient: Callable[..., Tensor]) -> GradientAt:
        """Return a function that calls `gradient` and adds the gradients of the attack's penalties.

        In each call, the function also marks in `self.finite` (N,) the images whose gradient is not finite.
        """

        def at(image: Tensor, sample: int = 0, moved: Tensor | None = None) -> Tensor:
            found = gradient(image, sample)
            # Find NaN before the step: the sign of NaN is 0, so after a sign step the image would only seem unchanged.
            self.finite &= found.sum((1, 2, 3)).isfinite()
            for penalty in self._parts.penalties:
                found = found + penalty.gradient(image - self._origin if moved is None else moved)
            return found

        return at

    def _run_program(self, program: Program, models: Sequence[Logits]) -> list[Tensor]:
        attack, everyone = self._attack, SourceGroup(tuple(models), self._shares(len(models)), 1.0)
        level = attack.budget.levels[0]

        def gradient(
            image: Tensor,
            step: int = 0,
            sample: int = 0,
            models: Sequence[int] | None = None,
            labels: Tensor | None = None,
        ) -> Tensor:
            group = everyone
            if models is not None:
                chosen = tuple(everyone.models[number] for number in models)
                group = SourceGroup(chosen, (1 / len(chosen),) * len(chosen), 1.0)
            found = self._checked(self._fusion(group, step, self._size(level), {}))
            with self._gradients.for_labels(labels):
                return found(image, sample)

        def logits(image: Tensor, model: int) -> Tensor:
            precision = self._gradients.precision
            with torch.no_grad(), numerics.network_pass(precision, image.device.type):
                return forward(everyone.models[model], image, precision)

        given = ProgramContext(
            origin=self._origin,
            labels=self._gradients.labels,
            goal=self._gradients.goal,
            steps=attack.steps,
            points=attack.scored_points,
            size=self._size(level),
            epsilon=attack.budget.first_epsilon,
            gradient=gradient,
            forward=logits,
            project=self._project,
            streams=self._streams,
            models=len(models),
            loop=self._ascend,
        )
        found = list(program.run(given))
        shapes = {tuple(one.shape) for one in found}
        if len(found) != len(attack.scored_points) or shapes != {tuple(self._origin.shape)}:
            raise StudyError(
                f"the program '{program.name}' returned perturbations of a wrong number or shape: {len(found)}, with "
                f"the shapes {sorted(shapes)}",
                accepted=f"{len(attack.scored_points)}, with the shape {tuple(self._origin.shape)}",
            )
        for one in found:
            self.finite &= one.sum((1, 2, 3)).isfinite()
        return found

    def _shares(self, models: int) -> tuple[float, ...]:
        if len(self._groups) == 1:
            return self._groups[0].weights
        total = sum(group.share for group in self._groups)
        return tuple(group.share / total for group in self._groups)

    def _size(self, level: float | None) -> float | Tensor:
        """Return the length of one step in pixel values, as a number or as a tensor (N, 1, 1, 1).

        A step size or learning rate in the recipe is this length. Without one, the length is 1 for a search of the
        minimal RMSD. For every other budget, it is the radius (of an epsilon budget: epsilon) divided by the number of
        steps.
        """
        attack = self._attack
        given = attack.learning_rate if attack.step == "adam" else attack.step_size
        if given is not None:
            return given
        if attack.budget.minimal is not None:
            return 1.0
        if self._rmsd is not None:
            return (self._rmsd / attack.steps)[:, None, None, None]
        assert level is not None, "without a budget, the recipe's validator asks for a step size"
        radius = self._parts.budget.radius(level, self._origin[0].numel())
        return (level if radius is None else radius) / attack.steps


def _asked(point: Point, context: StepContext, inner: Inner, state: State, delta: Tensor) -> Tensor:
    return point.gradient(delta, context, inner, state)
