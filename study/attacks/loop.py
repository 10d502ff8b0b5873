"""The one loop behind every attack: climb the gain, step, project; then finish to 8-bit pixels."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from study.attacks import budget as budgets
from study.attacks import start
from study.attacks.budget import Pixels
from study.attacks.finish import finish
from study.attacks.gradient import Gradients, Group, Logits, groups, largest_pass, penalty_gradient
from study.attacks.recipe import Attack, Goal, SkipGradient
from study.attacks.step import Stepper
from study.attacks.views import Pool, Views
from study.errors import StudyError
from study.models import residual
from study.reproducibility import numerics
from study.reproducibility.numerics import Layout, Precision
from study.reproducibility.rng import Streams


@dataclass(frozen=True)
class ImageBatch:
    """What is attacked: `clean` is `uint8` (N, C, H, W), `images` the ids.

    `labels` (N,) are those that the objective is about: the true ones of an untargeted goal, the wanted ones of a
    targeted goal. `own` (N,) are the true ones where that is another matter.
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
        """Some of them, in that order."""
        chosen = list(rows)
        return ImageBatch(
            self.clean[chosen], self.labels[chosen], [self.images[row] for row in chosen], self.true[chosen]
        )


@dataclass(frozen=True)
class Engine:
    """What changes rounding, and nothing else: where and how gradients are computed.

    `batch` is how many images one pass has, the last one padded; `room` how many it may have where views are evaluated
    together (unless given, 16 on a CPU and up to 256 elsewhere).
    """

    batch: int
    room: int | None = None
    device: str = "cpu"
    layout: Layout = "channels-last"
    precision: Precision = "float32"

    @property
    def size(self) -> int:
        """Images that are crafted together, padding included: the spec decides it, never how many images there are."""
        return numerics.pass_size(self.batch, self.device, self.room)

    @property
    def whole(self) -> int:
        """Images and views in one pass at most, as long as memory lasts."""
        return max(self.size, self.room or numerics.view_room(self.batch, self.device))

    def largest(self, copies: int) -> int:
        """Images in the largest pass of an attack that takes so many views of each image."""
        return largest_pass(self.size, copies, self.whole)


@dataclass(frozen=True)
class Crafted:
    """Adversarial images and how far each moved, in pixel values: V variants of N images, (V * N, ...), variant by
    variant in the order of `Attack.points`."""

    pixels: Pixels
    rmsd: NDArray[np.float64]
    linf: NDArray[np.float64]
    l2: NDArray[np.float64]
    room: int
    """Images in one pass at the end: fewer than asked for where memory ran out."""


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
    """Run `attack` on `given`; every image comes out once for each of the attack's points.

    `key` names the craft and, with the images' ids, keys all randomness; `names` are the models', for weights and
    gammas that a recipe gives by name. Batches are padded with copies of their last image, so that an image's result
    does not depend on its neighbours. `rmsd` (N,) gives the budget of every image where the attack's is matched;
    `pool` holds the images that admix mixes in.

    Raises StudyError, naming the images, where a gradient is not finite.
    """
    if attack.budget.minimal is not None:
        raise ValueError("a minimal RMSD is searched by the target: see rays()")
    radii = budgets.radii(attack.budget, rmsd, len(given.clean), given.clean[0].size)
    finished: list[list[Pixels]] = [[] for _ in attack.points]
    least = engine.whole
    batches = perturbations(models, attack, goal, given, key=key, engine=engine, names=names, radii=radii, pool=pool)
    for rows, deltas, room in batches:
        least = min(least, room)
        keys = [(*key, given.images[row], "rounding") for row in rows]
        images = finish(given.clean[rows], deltas, attack, None if radii is None else radii[rows], keys)
        for variant, part in zip(finished, images, strict=True):
            variant.append(part)
    variants = [np.concatenate(parts) for parts in finished]
    moved = np.concatenate([budgets.all_distances(given.clean, variant) for variant in variants])
    return Crafted(np.concatenate(variants), rmsd=moved[:, 0], linf=moved[:, 1], l2=moved[:, 2], room=least)


def rays(
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
    """The direction (N, C, H, W) along which a one-step attack moves every image, for a search of its smallest RMSD."""
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
    """Batch by batch: its rows, the float perturbations (N, C, H, W) at all points of the attack, the room of passes.

    What is yielded is the end of a step, before projection and rounding; `radii` (N,) are RMSDs of fixed budgets.
    """
    called = tuple(names) or tuple(str(index) for index in range(len(models)))
    together = groups(models, attack.weights_of(called), attack)
    room = engine.whole
    with _skipping(models, called, attack.skip_gradient):
        for first in range(0, len(given.clean), engine.size):
            rows = list(range(first, min(first + engine.size, len(given.clean))))
            padded = rows + [rows[-1]] * (engine.size - len(rows))
            batch = given.take(padded)
            streams = Streams(key, batch.images)
            labels = torch.from_numpy(batch.labels).to(engine.device)
            views = Views(attack, streams, batch.true, pool)
            gradients = Gradients(attack, goal, labels, views, room=room, precision=engine.precision)
            clean = torch.from_numpy(batch.clean).to(engine.device)
            origin = clean.to(torch.float32, memory_format=numerics.memory_format(engine.layout))
            radius = None if radii is None else torch.from_numpy(radii[padded]).to(engine.device, torch.float32)
            climb = _Climb(attack, together=together, gradients=gradients, streams=streams, origin=origin, rmsd=radius)
            deltas = climb.run()
            room = gradients.room
            whole = climb.finite.tolist()
            _refuse_broken([given.images[row] for row, fine in zip(rows, whole, strict=False) if not fine])
            yield rows, [one[: len(rows)] for one in deltas], room


class _Climb:
    """One batch on its way. The perturbation, not the image, is the state: so an FGS step has one magnitude to the
    last bit."""

    def __init__(
        self,
        attack: Attack,
        *,
        together: Sequence[Group],
        gradients: Gradients,
        streams: Streams,
        origin: Tensor,
        rmsd: Tensor | None,
    ) -> None:
        self._attack = attack
        self._groups = together
        self._gradients = gradients
        self._streams = streams
        self._origin = origin
        self._rmsd = rmsd
        self._project = budgets.Projection(origin, attack.budget, rmsd)
        self._steppers = [Stepper(attack) for _ in together]
        self._variances: list[Tensor | None] = [None for _ in together]
        self.finite = torch.ones(len(origin), dtype=torch.bool, device=origin.device)

    def run(self) -> list[Tensor]:
        """The perturbation at every point, float (N, C, H, W); each left unprojected for `finish`."""
        attack = self._attack
        levels = attack.budget.levels
        delta = start.perturbation(attack, self._origin, self._rmsd, self._streams)
        if attack.steps == 0:
            return [delta] * len(levels)
        found = []
        stops = {steps for steps, _ in attack.points}
        for step in range(attack.steps):
            if step or attack.start is not None:
                delta = self._project(delta)
            sizes = [self._size(level) for level in levels]
            direction = self._direction(delta, step, sizes[0])
            if len(sizes) == 1:
                moved = [direction.mul_(sizes[0]).add_(delta)]
            else:
                moved = [delta + size * direction for size in sizes]
            if step + 1 in stops:
                found += moved
            delta = moved[0]
        return found

    def _direction(self, delta: Tensor, step: int, size: float | Tensor) -> Tensor:
        """What all groups of models make of the gradients at `delta`, summed."""
        attack = self._attack
        total: Tensor | None = None
        for index, (group, stepper) in enumerate(zip(self._groups, self._steppers, strict=True)):
            ahead = stepper.ahead(size)
            place = delta if ahead is None else delta + ahead
            gradient = self._finite(self._gradients.of(group, self._origin + place, step))
            if attack.variance is not None:
                last, self._variances[index] = self._variances[index], None
                if step + 1 < attack.steps:
                    self._variances[index] = self._neighbours(group, delta, step) - gradient
                gradient = gradient if last is None else gradient + last
            if attack.penalty is not None:
                gradient = gradient + penalty_gradient(place, attack.penalty)
            part = stepper.direction(gradient)
            part = part if group.share == 1 else group.share * part
            total = part if total is None else total + part
        assert total is not None, "a craft has a source model"
        return total

    def _neighbours(self, group: Group, delta: Tensor, step: int) -> Tensor:
        """The mean gradient over random neighbours, uniform within beta * epsilon of the image."""
        variance, (epsilon, *_) = self._attack.variance, self._attack.budget.levels
        assert variance is not None and epsilon is not None, "the recipe's validator asks for both"  # noqa: PT018
        total = torch.zeros_like(delta)
        for sample in range(1, variance.samples + 1):
            away = self._streams.uniform(delta.shape[1:], str(delta.device), "variance", step, sample)
            place = self._origin + delta + variance.beta * epsilon * away
            total += self._finite(self._gradients.of(group, place, step, sample))
        return total / variance.samples

    def _finite(self, gradient: Tensor) -> Tensor:
        # Looked at here: the sign of a NaN is 0, which would pass for an image that no step moves.
        self.finite &= gradient.sum((1, 2, 3)).isfinite()
        return gradient

    def _size(self, level: float | None) -> float | Tensor:
        """One step's length in pixel values: as given, or the budget divided by the number of steps."""
        attack = self._attack
        given = attack.learning_rate if attack.step == "adam" else attack.step_size
        if given is not None:
            return given
        if attack.budget.minimal is not None:
            return 1.0
        if self._rmsd is not None:
            return (self._rmsd / attack.steps)[:, None, None, None]
        assert level is not None, "the recipe's validator asks for a step size where there is no budget"
        if attack.budget.l2 is not None:
            level = budgets.rmsd_of(attack.budget, level, self._origin[0].numel())
        return level / attack.steps


@contextlib.contextmanager
def _skipping(models: Sequence[Logits], names: Sequence[str], skip: SkipGradient | None) -> Iterator[None]:
    """Residual branches' gradients decayed, in every model that has such branches, as long as this lasts."""
    if skip is None:
        yield
        return
    with contextlib.ExitStack() as stack:
        known = False
        for name, model in zip(names, models, strict=True):
            if not isinstance(model, nn.Module):
                raise TypeError("skip gradients need the module itself")
            known = known or bool(residual.branches(model))
            branch, dense = skip.of(name)
            compatibility = skip.compatibility
            stack.enter_context(residual.decayed(model, residual=branch, dense=dense, compatibility=compatibility))
        if not known:
            raise StudyError(
                f"{' + '.join(names)}: no residual branch or dense layer is known in it, and skip_gradient needs one",
                accepted="ResNet, ResNeXt, SE-ResNet, SENet, DenseNet, EfficientNet and their like",
                todo="leave these sources out of the attack's experiments",
            )
        yield


def _refuse_broken(images: Sequence[str]) -> None:
    if images:
        raise StudyError(
            f"the gradient of {', '.join(images)} is not finite",
            todo="check the source model's weights and preprocessing; no row of this unit was written",
        )
