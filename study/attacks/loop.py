"""Run an attack on images: cut them into batches, run the first stage and the ascent, and round to 8-bit pixels."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Required, TypedDict, Unpack

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from study.attacks import budget as budgets
from study.attacks.ascent import Ascent
from study.attacks.budget import Pixels
from study.attacks.finish import finish
from study.attacks.gradient import BatchGradients
from study.attacks.kinds import Goal, Pool
from study.attacks.passes import Logits, RunningPass, changed, groups, in_precision, largest_pass
from study.attacks.recipe import Attack
from study.attacks.views import Views
from study.devices.copies import Download, is_host, uploaded
from study.errors import StudyError
from study.events import activity
from study.models.device_errors import OutOfMemory, attempt, halved
from study.reproducibility import numerics
from study.reproducibility.numerics import Layout, Precision
from study.reproducibility.rng import Streams, of_all_images, one_kernel


class NotFinite(StudyError):
    """The gradients of some images are not finite."""


@dataclass(frozen=True)
class ImageBatch:
    """Clean images to attack: `clean` is `uint8` (N, C, H, W), and `images` has their ids.

    `labels` (N,) are the labels of the objective: the true labels for an untargeted goal, the target labels for a
    targeted goal. `own` (N,) are the true labels; None if they are equal to `labels`.
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
        """Return the images at `rows`, in the order of `rows`."""
        chosen = list(rows)
        return ImageBatch(
            self.clean[chosen], self.labels[chosen], [self.images[row] for row in chosen], self.true[chosen]
        )


@dataclass(frozen=True)
class Engine:
    """How and where gradients are computed. These settings change the rounding of a gradient, and nothing else.

    `batch` is the number of images in one pass; on a CPU, `batch_size` makes it 4, 8, 12 or 16. The last pass is
    padded. For attacks with several views, a pass has up to `max_pass_images` images. By default, this is 16 on a CPU;
    on a GPU it is 256, or `batch` if `batch` is larger.
    """

    batch: int
    max_pass_images: int | None = None
    device: str = "cpu"
    layout: Layout = "channels-last"
    precision: Precision = "float32"

    @property
    def batch_size(self) -> int:
        """Number of images in every batch, after padding. It depends on the spec, but not on the number of images."""
        return numerics.pass_size(self.batch, self.device, self.max_pass_images)

    @property
    def pass_limit(self) -> int:
        """Largest number of images in one pass if the memory suffices. Each view counts as an image."""
        return max(self.batch_size, self.max_pass_images or numerics.max_view_pass(self.batch, self.device))

    def largest(self, copies: int) -> int:
        """Number of images in the largest pass of an attack with `copies` views of each image, as `largest_pass`."""
        return largest_pass(self.batch_size, copies, self.pass_limit)


@dataclass(frozen=True)
class Crafted:
    """Adversarial images, `uint8` (V * N, C, H, W), and their distances (V * N,) from the clean images.

    Distances are in pixel values. V is the number of `Attack.scored_points`, and N the number of clean images. The N
    images of the first point come first, then those of the second point, and so on.
    """

    pixels: Pixels
    rmsd: NDArray[np.float64]
    linf: NDArray[np.float64]
    l2: NDArray[np.float64]
    max_pass_images: int
    """Largest number of images in one pass at the end of the attack.

    It is lower than at the start if the device ran out of memory.
    """


class Conditions(TypedDict, total=False):
    """The keyword arguments of the functions that attack images. `AttackOnImages` describes them."""

    key: Required[Sequence[object]]
    engine: Required[Engine]
    names: Sequence[str]
    pool: Pool | None


@dataclass(frozen=True)
class AttackOnImages:
    """An attack with its models, images and engine: all that determines the images, except radii of a matched budget.

    `key` identifies the attack run; together with an image's id, it keys all random numbers. `names` are the models'
    names, because the weights of models and the parameters of components may be given by model. `pool` holds the images
    that components mix in.
    """

    models: Sequence[Logits]
    attack: Attack
    goal: Goal
    given: ImageBatch
    key: Sequence[object]
    engine: Engine
    names: Sequence[str] = ()
    pool: Pool | None = None

    @property
    def called(self) -> tuple[str, ...]:
        """The names of the models; if there are no names, the indices of the models as text."""
        return tuple(self.names) or tuple(str(number) for number in range(len(self.models)))

    def first_stage(self) -> Sequence[Pixels]:
        """Return the images (N, C, H, W) of the attack's first stage at each of its points.

        Return () if the attack has no first stage.
        """
        if self.attack.first is None:
            return ()
        made = _crafted(replace(self, attack=self.attack.first, key=(*self.key, "first stage")), None)
        return np.split(made.pixels, len(self.attack.first.scored_points))

    def floats(self, pixels: Pixels) -> Tensor:
        """Return images as float32 on the engine's device, in the engine's memory layout."""
        layout = numerics.memory_format(self.engine.layout)
        return uploaded(pixels, self.engine.device).to(torch.float32, memory_format=layout)


def craft(
    models: Sequence[Logits],
    attack: Attack,
    goal: Goal,
    given: ImageBatch,
    *,
    rmsd: NDArray[np.float64] | None = None,
    **how: Unpack[Conditions],
) -> Crafted:
    """Attack the images in `given`. Return one adversarial image for each image and each of `attack.scored_points`.

    `rmsd` (N,) is the budget of every image if the attack's budget is matched. Batches are padded with copies of their
    last image, so that the result for an image does not depend on the other images.

    Raises NotFinite, with the ids of images, if a gradient is not finite.
    """
    return _crafted(AttackOnImages(models, attack, goal, given, **how), rmsd)


def _crafted(run: AttackOnImages, rmsd: NDArray[np.float64] | None) -> Crafted:
    attack, given, engine = run.attack, run.given, run.engine
    if attack.budget.minimal is not None:
        raise ValueError("the minimal RMSD depends on the target: use step_directions() and minimal_rmsd()")
    radii = budgets.radii(attack.budget, attack.assembly.budget, rmsd, len(given.clean), given.clean[0].size)
    points, numbers = len(attack.scored_points), given.clean[0].size
    finished: list[list[Pixels]] = [[] for _ in range(points)]
    measured: list[list[NDArray[np.float64]]] = [[] for _ in range(points)]
    least = engine.pass_limit

    def rounded(moved: Moved, these: slice) -> Download:
        clean = moved.clean[these].to(torch.uint8, memory_format=torch.contiguous_format)
        rows, deltas = moved.rows[these], [delta[these] for delta in moved.deltas]
        keys = [(*run.key, given.images[row], "rounding") for row in rows]
        images = finish(clean, deltas, attack, None if radii is None else radii[rows], keys)
        distances = [number for image in images for number in budgets.integer_distances(clean, image)]
        return Download(moved.finite[these], *images, *distances)

    def leave(moved: Moved) -> list[Download]:
        if is_host(engine.device):
            # On a CPU, `finite` is known without waiting. Stop before the rounding, because NaN cannot be rounded.
            _refuse_broken(given, moved.rows, moved.finite.numpy())
        return _in_parts(functools.partial(rounded, moved), len(moved.rows))

    for rows, limit, (finite, *arrays) in _one_behind(_batches(run, radii), leave):
        _refuse_broken(given, rows, finite)
        least = min(least, limit)
        for point in range(points):
            finished[point].append(arrays[point])
            squares, largest = arrays[points + 2 * point : points + 2 * point + 2]
            measured[point].append(budgets.of_integers(squares, largest, numbers))
    pixels = np.concatenate([part for parts in finished for part in parts])
    distances = np.concatenate([part for parts in measured for part in parts])
    return Crafted(pixels, rmsd=distances[:, 0], linf=distances[:, 1], l2=distances[:, 2], max_pass_images=least)


def step_directions(
    models: Sequence[Logits], attack: Attack, goal: Goal, given: ImageBatch, **how: Unpack[Conditions]
) -> NDArray[np.float32]:
    """Return the direction (N, C, H, W) in which a one-step attack moves every image, for a search of the minimal RMSD.

    Raises the same errors as `craft`.
    """
    found = _batches(AttackOnImages(models, attack, goal, given, **how), None)
    directions = []
    for rows, _, (finite, direction) in _one_behind(found, lambda moved: [Download(moved.finite, moved.deltas[0])]):
        _refuse_broken(given, rows, finite)
        directions.append(direction)
    return np.concatenate(directions)


def perturbations(
    models: Sequence[Logits],
    attack: Attack,
    goal: Goal,
    given: ImageBatch,
    *,
    radii: NDArray[np.float64] | None = None,
    **how: Unpack[Conditions],
) -> Iterator[tuple[list[int], list[Tensor], int]]:
    """Yield, for each batch, its rows, the float perturbations (N, C, H, W) at all points, and the pass limit.

    A perturbation is the result of a step, before projection and rounding. The pass limit is the largest number of
    images in one pass. `radii` (N,) are given for a budget with a radius for each image, such as an RMSD. Raises the
    same errors as `craft`.
    """
    for moved in batches(models, attack, goal, given, radii=radii, **how):
        _refuse_broken(given, moved.rows, moved.finite.cpu().numpy())
        yield moved.rows, moved.deltas, moved.limit


@dataclass(frozen=True)
class Moved:
    """The result of one batch after its last step. The device may still be computing the tensors.

    Attributes:
        rows: The rows of the batch's images among all images.
        clean: The clean images of the batch, float (N, C, H, W).
        deltas: The perturbations at all points, float (N, C, H, W).
        finite: Whether all gradients of an image were finite, (N,).
        limit: The largest number of images in one pass at the end of the batch.
    """

    rows: list[int]
    clean: Tensor
    deltas: list[Tensor]
    finite: Tensor
    limit: int


def batches(
    models: Sequence[Logits],
    attack: Attack,
    goal: Goal,
    given: ImageBatch,
    *,
    radii: NDArray[np.float64] | None = None,
    **how: Unpack[Conditions],
) -> Iterator[Moved]:
    """Yield the result of each batch after its last step, without waiting for the device.

    The caller must check `Moved.finite`. `radii` is as for `perturbations`.
    """
    return _batches(AttackOnImages(models, attack, goal, given, **how), radii)


def _batches(run: AttackOnImages, radii: NDArray[np.float64] | None) -> Iterator[Moved]:
    attack, given, key, engine, pool = run.attack, run.given, run.key, run.engine, run.pool
    models = in_precision(run.models, engine.precision)
    assembly = attack.assembly
    sources = groups(models, attack.weights_of(run.called), separate=attack.separate)
    limit = engine.pass_limit
    activity.here.expect(attack.steps * -(-len(given.clean) // engine.batch_size))
    first_stage = run.first_stage()
    running = RunningPass(engine.device, key, pool)
    one_kernel(engine.device)
    with changed(assembly, models, run.called, running):

        def climb(rows: list[int], size: int) -> Moved:
            padded = rows + [rows[-1]] * (size - len(rows))
            batch = given.take(padded)
            streams = Streams(key, batch.images)
            origin = run.floats(batch.clean)
            views = Views(
                assembly.views,
                streams,
                batch.true,
                pool,
                batch.labels,
                origin=origin,
                steps=attack.steps,
                epsilon=attack.budget.first_epsilon,
            )
            gradients = BatchGradients(
                assembly,
                run.goal,
                uploaded(batch.labels, engine.device),
                views,
                streams,
                origin,
                limit,
                engine.precision,
                running if assembly.forward or assembly.backward else None,
                of_all_images(key),
            )
            running.begin_batch(streams, origin)
            ascent = Ascent(
                attack,
                sources=sources,
                gradients=gradients,
                origin=origin,
                rmsd=None if radii is None else uploaded(radii[padded], engine.device, torch.float32),
                path=[run.floats(variant[padded]) for variant in first_stage],
                true=uploaded(batch.true, engine.device),
                pool=pool,
            )
            with numerics.elementwise(engine.device):
                deltas = ascent.run(models)
            own = slice(len(rows))
            ends = [one[own] for one in deltas]
            return Moved(rows, origin[own], ends, ascent.finite[own], gradients.max_pass_images)

        first, size = 0, engine.batch_size
        while first < len(given.clean):
            rows = list(range(first, min(first + size, len(given.clean))))
            found = attempt(functools.partial(climb, rows, size))
            if isinstance(found, OutOfMemory):
                # Memory ran out outside of the loop's passes, such as in a preparing pass: retry with fewer images.
                size = halved(size, found, "the attack of a single image")
                limit = min(limit, size)
                continue
            limit = found.limit
            yield found
            first += len(rows)


def _in_parts(work: Callable[[slice], Download], count: int) -> list[Download]:
    """Return the results of `work` on slices that cover `count` images.

    There is one slice, or several smaller ones if the device lacks memory. Each image is rounded independently of the
    other images, so the slices change no pixel.
    """
    done: list[Download] = []
    first, size = 0, count
    while first < count:
        part = attempt(functools.partial(work, slice(first, first + size)))
        if isinstance(part, OutOfMemory):
            size = halved(size, part, "the rounding of a single image")
            continue
        done.append(part)
        first += size
    return done


def _one_behind(
    found: Iterator[Moved], leave: Callable[[Moved], list[Download]]
) -> Iterator[tuple[list[int], int, list[NDArray[Any]]]]:
    """Yield the rows and the pass limit of each batch, and the arrays that `leave` sends to the host.

    The host reads the arrays of a batch only after the next batch is queued, so that the device always has work.
    """
    last: tuple[list[int], int, list[Download]] | None = None
    for moved in found:
        sent = moved.rows, moved.limit, leave(moved)
        if last is not None:
            yield *last[:2], _joined(last[2])
        last = sent
    if last is not None:
        yield *last[:2], _joined(last[2])


def _joined(parts: Sequence[Download]) -> list[NDArray[Any]]:
    arrays = [one.arrays() for one in parts]
    return arrays[0] if len(arrays) == 1 else [np.concatenate(each) for each in zip(*arrays, strict=True)]


def _refuse_broken(given: ImageBatch, rows: Sequence[int], finite: NDArray[np.bool_]) -> None:
    broken = [given.images[row] for row, fine in zip(rows, finite.tolist(), strict=True) if not fine]
    if broken:
        raise NotFinite(
            f"the gradient of {', '.join(broken)} is not finite",
            todo="check the source model's weights and preprocessing, and components of your own; in a run, no row of "
            "this unit (the attack on one shard) was written",
        )
