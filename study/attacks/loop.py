"""The one loop behind every attack: gradient of the loss, step, projection; then rounding to 8-bit pixels."""

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
from study.attacks.gradient import Gradients, Logits, SourceGroup, groups, largest_pass, penalty_gradient
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

    V variants of N images, variant by variant, in the order of `Attack.points`.
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
    finished: list[list[Pixels]] = [[] for _ in attack.points]
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
    sources = groups(models, attack.weights_of(called), attack)
    limit = engine.pass_limit
    with _skip_gradients(models, called, attack.skip_gradient):
        for first in range(0, len(given.clean), engine.batch_size):
            rows = list(range(first, min(first + engine.batch_size, len(given.clean))))
            padded = rows + [rows[-1]] * (engine.batch_size - len(rows))
            batch = given.take(padded)
            streams = Streams(key, batch.images)
            labels = torch.from_numpy(batch.labels).to(engine.device)
            views = Views(attack, streams, batch.true, pool)
            gradients = Gradients(attack, goal, labels, views, max_pass_images=limit, precision=engine.precision)
            clean = torch.from_numpy(batch.clean).to(engine.device)
            origin = clean.to(torch.float32, memory_format=numerics.memory_format(engine.layout))
            radius = None if radii is None else torch.from_numpy(radii[padded]).to(engine.device, torch.float32)
            ascent = _Ascent(attack, sources=sources, gradients=gradients, streams=streams, origin=origin, rmsd=radius)
            deltas = ascent.run()
            limit = gradients.max_pass_images
            finite = ascent.finite.tolist()
            _refuse_broken([given.images[row] for row, fine in zip(rows, finite, strict=False) if not fine])
            yield rows, [one[: len(rows)] for one in deltas], limit


class _Ascent:
    """Gradient ascent on the loss of one batch.

    Its state is the perturbation, not the image: all pixels of an FGS step then have one magnitude, to the last bit.
    """

    def __init__(
        self,
        attack: Attack,
        *,
        sources: Sequence[SourceGroup],
        gradients: Gradients,
        streams: Streams,
        origin: Tensor,
        rmsd: Tensor | None,
    ) -> None:
        self._attack = attack
        self._groups = sources
        self._gradients = gradients
        self._streams = streams
        self._origin = origin
        self._rmsd = rmsd
        self._project = budgets.Projection(origin, attack.budget, rmsd)
        self._steppers = [Stepper(attack) for _ in sources]
        self._variances: list[Tensor | None] = [None for _ in sources]
        self.finite = torch.ones(len(origin), dtype=torch.bool, device=origin.device)

    def run(self) -> list[Tensor]:
        """Return the perturbation at every point, float (N, C, H, W), unprojected: `finish` projects it."""
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
        """The sum of the groups' step directions at `delta`."""
        attack = self._attack
        total: Tensor | None = None
        for index, (group, stepper) in enumerate(zip(self._groups, self._steppers, strict=True)):
            ahead = stepper.ahead(size)
            place = delta if ahead is None else delta + ahead
            gradient = self._checked(self._gradients.of(group, self._origin + place, step))
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
        assert total is not None, "an attack run has a source model"
        return total

    def _neighbours(self, group: SourceGroup, delta: Tensor, step: int) -> Tensor:
        """The mean gradient over random neighbours, uniform within beta * epsilon (Wang and He 2021, equation 5)."""
        variance, (epsilon, *_) = self._attack.variance, self._attack.budget.levels
        assert variance is not None and epsilon is not None, "the recipe's validator asks for both"  # noqa: PT018
        total = torch.zeros_like(delta)
        for sample in range(1, variance.samples + 1):
            away = self._streams.uniform(delta.shape[1:], str(delta.device), "variance", step, sample)
            place = self._origin + delta + variance.beta * epsilon * away
            total += self._checked(self._gradients.of(group, place, step, sample))
        return total / variance.samples

    def _checked(self, gradient: Tensor) -> Tensor:
        # The check is here because the sign of a NaN is 0: the image would look like one that no step moves.
        self.finite &= gradient.sum((1, 2, 3)).isfinite()
        return gradient

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


@contextlib.contextmanager
def _skip_gradients(models: Sequence[Logits], names: Sequence[str], skip: SkipGradient | None) -> Iterator[None]:
    """Decay the gradients of residual branches and dense layers inside the `with` block."""
    if skip is None:
        yield
        return
    with contextlib.ExitStack() as stack:
        known = False
        for name, model in zip(names, models, strict=True):
            if not isinstance(model, nn.Module):
                raise TypeError("skip_gradient needs a torch module")
            known = known or bool(residual.branches(model))
            branch, dense = skip.of(name)
            compatibility = skip.compatibility
            stack.enter_context(residual.decayed(model, residual=branch, dense=dense, compatibility=compatibility))
        if not known:
            raise StudyError(
                f"skip_gradient needs residual branches or dense layers, and none are known in {' + '.join(names)}",
                accepted="ResNet, ResNeXt, SE-ResNet, SENet, DenseNet, EfficientNet and similar networks",
                todo="leave these sources out of the attack's experiments",
            )
        yield


def _refuse_broken(images: Sequence[str]) -> None:
    if images:
        raise StudyError(
            f"the gradient of {', '.join(images)} is not finite",
            todo="check the source model's weights and preprocessing; no row of this unit was written",
        )
