"""The one loop behind every attack: gradient of the loss, step, projection; then rounding to 8-bit pixels."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from study.attacks import budget as budgets
from study.attacks.budget import Pixels
from study.attacks.finish import finish
from study.attacks.gradient import (
    BatchGradients,
    Fusion,
    Logits,
    Preparing,
    RunningPass,
    SourceGroup,
    changed,
    groups,
    largest_pass,
    layers_of,
)
from study.attacks.kinds import (
    FeatureObjective,
    Goal,
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
from study.attacks.recipe import Attack
from study.attacks.views import Views
from study.errors import StudyError
from study.reproducibility import numerics
from study.reproducibility.numerics import Layout, Precision
from study.reproducibility.rng import Streams, of_all_images


@dataclass(frozen=True)
class ImageBatch:
    """Clean images to attack: `clean` is `uint8` (N, C, H, W), `images` are their ids.

    `labels` (N,) are the labels of the objective: the true labels for an untargeted goal, the target labels for a
    targeted goal. `own` (N,) are the true labels if they differ from `labels`.
    """

    clean: Pixels
    labels: NDArray[np.int64]
    images: Sequence[str]
    own: NDArray[np.int64] | None = None

    @property
    def true(self) -> NDArray[np.int64]:
        """The true labels (N,)."""
        return self.labels if self.own is None else self.own

    def take(self, rows: Sequence[int]) -> ImageBatch:
        """Return the images at `rows`, in that order."""
        chosen = list(rows)
        return ImageBatch(
            self.clean[chosen], self.labels[chosen], [self.images[row] for row in chosen], self.true[chosen]
        )


@dataclass(frozen=True)
class Engine:
    """How and where gradients are computed: settings that change the rounding of a gradient, and nothing else.

    `batch` is the number of images in one pass; the last pass is padded. For attacks with several views a pass has up
    to `max_pass_images` images (unless given, 16 on a CPU and up to 256 elsewhere).
    """

    batch: int
    max_pass_images: int | None = None
    device: str = "cpu"
    layout: Layout = "channels-last"
    precision: Precision = "float32"

    @property
    def batch_size(self) -> int:
        """Number of images in every batch, after padding. It follows from the spec, not from the number of images."""
        return numerics.pass_size(self.batch, self.device, self.max_pass_images)

    @property
    def pass_limit(self) -> int:
        """Largest number of images and views in one pass, while memory suffices."""
        return max(self.batch_size, self.max_pass_images or numerics.max_view_pass(self.batch, self.device))

    def largest(self, copies: int) -> int:
        """Number of images in the largest pass of an attack with `copies` views of each image."""
        return largest_pass(self.batch_size, copies, self.pass_limit)


@dataclass(frozen=True)
class Crafted:
    """Adversarial images, `uint8` (V * N, C, H, W), and their distances (V * N,) from the clean images in pixel values.

    V variants of N images, variant by variant, in the order of `Attack.scored_points`.
    """

    pixels: Pixels
    rmsd: NDArray[np.float64]
    linf: NDArray[np.float64]
    l2: NDArray[np.float64]
    max_pass_images: int
    """Images in one pass at the end: fewer than at the start if the device ran out of memory."""


def craft(
    models: Sequence[Logits],
    attack: Attack,
    goal: Goal,
    given: ImageBatch,
    *,
    key: Sequence[object],
    engine: Engine,
    names: Sequence[str] = (),
    rmsd: NDArray[np.float64] | None = None,
    pool: Pool | None = None,
) -> Crafted:
    """Attack the images in `given`: one adversarial image of each, for each of the attack's points.

    `key` identifies the attack run; with an image's id it keys all random numbers. `names` are the models' names, for
    weights and gammas by model. `rmsd` (N,) is the budget of every image if the attack's budget is matched. `pool`
    holds the images that admix mixes in. Batches are padded with copies of their last image, so that an image's result
    does not depend on the other images.

    Raises StudyError, with the images' ids, if a gradient is not finite.
    """
    if attack.budget.minimal is not None:
        raise ValueError("the minimal RMSD depends on the target: use step_directions() and minimal_rmsd()")
    radii = budgets.radii(attack.budget, rmsd, len(given.clean), given.clean[0].size)
    finished: list[list[Pixels]] = [[] for _ in attack.scored_points]
    least = engine.pass_limit
    batches = perturbations(models, attack, goal, given, key=key, engine=engine, names=names, radii=radii, pool=pool)
    for rows, deltas, limit in batches:
        least = min(least, limit)
        keys = [(*key, given.images[row], "rounding") for row in rows]
        images = finish(given.clean[rows], deltas, attack, None if radii is None else radii[rows], keys)
        for variant, part in zip(finished, images, strict=True):
            variant.append(part)
    variants = [np.concatenate(parts) for parts in finished]
    found = np.concatenate([budgets.all_distances(given.clean, variant) for variant in variants])
    pixels = np.concatenate(variants)
    return Crafted(pixels, rmsd=found[:, 0], linf=found[:, 1], l2=found[:, 2], max_pass_images=least)


def step_directions(
    models: Sequence[Logits],
    attack: Attack,
    goal: Goal,
    given: ImageBatch,
    *,
    key: Sequence[object],
    engine: Engine,
    names: Sequence[str] = (),
    pool: Pool | None = None,
) -> NDArray[np.float32]:
    """Return the direction (N, C, H, W) in which a one-step attack moves every image, for a search of the minimal RMSD.

    Arguments and errors are those of `craft`.
    """
    batches = perturbations(models, attack, goal, given, key=key, engine=engine, names=names, radii=None, pool=pool)
    found = [deltas[0].to("cpu", memory_format=torch.contiguous_format) for _, deltas, _ in batches]
    return torch.cat(found).numpy()


def perturbations(
    models: Sequence[Logits],
    attack: Attack,
    goal: Goal,
    given: ImageBatch,
    *,
    key: Sequence[object],
    engine: Engine,
    names: Sequence[str] = (),
    radii: NDArray[np.float64] | None = None,
    pool: Pool | None = None,
) -> Iterator[tuple[list[int], list[Tensor], int]]:
    """Yield batch by batch: its rows, the float perturbations (N, C, H, W) at all points, and the pass limit.

    A perturbation is the end of a step, before projection and rounding. `radii` (N,) are the RMSDs of L2 and RMSD
    budgets. Other arguments and errors are those of `craft`.
    """
    called = tuple(names) or tuple(str(index) for index in range(len(models)))
    assembly = attack.assembly
    sources = groups(models, attack.weights_of(called), separate=attack.separate)
    limit = engine.pass_limit
    epsilon = _epsilon(attack)
    first_stage = _first_stage(models, attack, goal, given, key=key, engine=engine, names=called, pool=pool)
    running = RunningPass(engine.device, key, pool)
    with changed(assembly, models, called, running):
        for first in range(0, len(given.clean), engine.batch_size):
            rows = list(range(first, min(first + engine.batch_size, len(given.clean))))
            padded = rows + [rows[-1]] * (engine.batch_size - len(rows))
            batch = given.take(padded)
            streams = Streams(key, batch.images)
            labels = torch.from_numpy(batch.labels).to(engine.device)
            origin = _floats(batch.clean, engine)
            gradients = BatchGradients(
                assembly,
                goal,
                labels,
                Views(
                    assembly.views,
                    streams,
                    batch.true,
                    pool,
                    batch.labels,
                    origin=origin,
                    steps=attack.steps,
                    epsilon=epsilon,
                ),
                streams,
                origin,
                limit,
                engine.precision,
                running if assembly.forward or assembly.backward else None,
                of_all_images(key),
            )
            running.begin_batch(streams, origin)
            path = [_floats(variant[padded], engine) for variant in first_stage]
            true = torch.from_numpy(batch.true).to(engine.device)
            radius = None if radii is None else torch.from_numpy(radii[padded]).to(engine.device, torch.float32)
            ascent = _Ascent(
                attack,
                sources=sources,
                gradients=gradients,
                origin=origin,
                rmsd=radius,
                path=path,
                true=true,
                pool=pool,
            )
            deltas = ascent.run(models)
            limit = gradients.max_pass_images
            finite = ascent.finite.tolist()
            _refuse_broken([given.images[row] for row, fine in zip(rows, finite, strict=False) if not fine])
            yield rows, [one[: len(rows)] for one in deltas], limit


def _first_stage(
    models: Sequence[Logits],
    attack: Attack,
    goal: Goal,
    given: ImageBatch,
    *,
    key: Sequence[object],
    engine: Engine,
    names: Sequence[str],
    pool: Pool | None,
) -> Sequence[Pixels]:
    """The images (N, C, H, W) of the attack's first stage at each of its points; nothing if it has none."""
    if attack.first is None:
        return ()
    own = (*key, "first stage")
    made = craft(models, attack.first, goal, given, key=own, engine=engine, names=names, pool=pool)
    return np.split(made.pixels, len(attack.first.scored_points))


def _floats(pixels: Pixels, engine: Engine) -> Tensor:
    """Images as float32 on the device, in its layout."""
    return (
        torch.from_numpy(pixels)
        .to(engine.device)
        .to(torch.float32, memory_format=numerics.memory_format(engine.layout))
    )


def _epsilon(attack: Attack) -> float | None:
    return attack.budget.levels[0] if attack.budget.epsilon is not None else None


@dataclass
class _Climber:
    """The state of one group of source models: what its components remember from step to step."""

    group: SourceGroup
    ensemble: State
    points: list[State]
    updates: list[State]
    step: State


class _Ascent:
    """Gradient ascent on the loss of one batch.

    Its state is the perturbation, not the image: all pixels of an FGS step then have one magnitude, to the last bit.
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
        """`path` has the images of the first stage; `true` (N,) are the true labels."""
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
        self._project = budgets.Projection(origin, attack.budget, rmsd)
        self.finite = torch.ones(len(origin), dtype=torch.bool, device=origin.device)

    def run(self, models: Sequence[Logits]) -> list[Tensor]:
        """Return the perturbation at every point, float (N, C, H, W), unprojected: `finish` projects it."""
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
                first=self._first,
                path=self._path,
                pool=self._pool,
            )
            gradients.prepared[id(model)] = objective.prepare(source)

    def _ascend(self, start: Tensor | None) -> list[Tensor]:
        """Run the loop from `start`, or from the attack's own start."""
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
        """The sum of the groups' step directions at `delta`."""
        total: Tensor | None = None
        for climber in climbers:
            part = self._of_group(climber, delta, step, size)
            share = climber.group.share
            part = part if share == 1 else share * part
            total = part if total is None else total + part
        assert total is not None, "an attack run has a source model"
        return total

    def _of_group(self, climber: _Climber, delta: Tensor, step: int, size: float | Tensor) -> Tensor:
        """The step direction of one group: points, then updates, then the step rule."""
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
            epsilon=_epsilon(attack),
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
        return Fusion(group, self._gradients, step, attack.steps, size, _epsilon(attack), self._project, state)

    def _checked(self, gradient: Callable[..., Tensor]) -> GradientAt:
        """`gradient` with the penalties' gradients, and a note of images whose gradient is not finite."""

        def at(image: Tensor, sample: int = 0, moved: Tensor | None = None) -> Tensor:
            found = gradient(image, sample)
            # The check is here because the sign of a NaN is 0: the image would look like one that no step moves.
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

        def forward(image: Tensor, model: int) -> Tensor:
            with torch.no_grad():
                return everyone.models[model](image)

        given = ProgramContext(
            origin=self._origin,
            labels=self._gradients.labels,
            goal=self._gradients.goal,
            steps=attack.steps,
            points=attack.scored_points,
            size=self._size(level),
            epsilon=_epsilon(attack),
            gradient=gradient,
            forward=forward,
            project=self._project,
            streams=self._streams,
            models=len(models),
            loop=self._ascend,
        )
        found = list(program.run(given))
        shapes = {tuple(one.shape) for one in found}
        if len(found) != len(attack.scored_points) or shapes != {tuple(self._origin.shape)}:
            raise StudyError(
                f"the program '{program.name}' returned {len(found)} perturbations of the shapes {sorted(shapes)}",
                accepted=f"{len(attack.scored_points)} of the shape {tuple(self._origin.shape)}",
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
        """The length of one step in pixel values: the recipe's, or the budget divided by the number of steps."""
        attack = self._attack
        given = attack.learning_rate if attack.step == "adam" else attack.step_size
        if given is not None:
            return given
        if attack.budget.minimal is not None:
            return 1.0
        if self._rmsd is not None:
            return (self._rmsd / attack.steps)[:, None, None, None]
        assert level is not None, "without a budget, the recipe's validator asks for a step size"
        if attack.budget.l2 is not None:
            level = budgets.rmsd_of(attack.budget, level, self._origin[0].numel())
        return level / attack.steps


def _asked(point: Point, context: StepContext, inner: Inner, state: State, delta: Tensor) -> Tensor:
    return point.gradient(delta, context, inner, state)


def _refuse_broken(images: Sequence[str]) -> None:
    if images:
        raise StudyError(
            f"the gradient of {', '.join(images)} is not finite",
            todo="check the source model's weights and preprocessing; no row of this unit was written",
        )
