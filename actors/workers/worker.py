"""A worker: holds models on a device, crafts adversarial images from clean ones, predicts, and answers probes."""

from __future__ import annotations

import functools
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from actors.scheduling.messages import (
    CraftJob,
    CraftResult,
    PredictJob,
    PredictResult,
    ProbeJob,
    ProbeResult,
    TargetResult,
)
from actors.workers.model_cache import ModelCache, ModelRequest
from actors.workers.worker_config import WorkerConfig
from study.attacks import own_code
from study.devices.copies import is_host, uploaded
from study.errors import StudyError, first_line
from study.events import activity
from study.models.device_errors import OutOfMemory, attempt, fault
from study.reproducibility import float_environment, numerics, user_files
from study.reproducibility.float_environment import Arithmetic
from study.results.schema import PixelDistances, TargetAnswers

if TYPE_CHECKING:
    from torch import Tensor

    from study.attacks.loop import Engine, ImageBatch
    from study.models.classifier import Classifier
    from study.models.predict import Prediction
    from study.visibility.lpips import Lpips


_MOST_AT_ONCE = 2**28
"""Largest number of bytes of images that are copied to a GPU once for all targets."""


class Worker:
    """Does the work of an actor that holds models. This class does not depend on Ray."""

    def __init__(self, config: WorkerConfig, device: str) -> None:
        self._installed = False
        self._cache = ModelCache(config, device)
        numerics.limit_memory(device, config.gpu_share)
        self._config = config

    def hello(self) -> Arithmetic:
        """Return the arithmetic of this process: what determines how it rounds floats.

        On a GPU, this first computes a small convolution. So a GPU that does not work fails here, before any task.
        """
        if self._cache.device != "cpu":
            _use(self._cache.device)
        return float_environment.here(self._cache.device)

    def craft(
        self, request: ModelRequest, job: CraftJob, pixels: NDArray[np.uint8]
    ) -> tuple[CraftResult, NDArray[Any]]:
        """Craft the adversarial images of a unit (one attack run on one shard of N images).

        `pixels`: `uint8` (N + M, C, H, W). The N clean images come first. The M further images are mixed in by the
        attack, as admix does. For an attack with precomputed images, the N adversarial images follow instead of the M
        images.

        Returns the result, and the images as `uint8` (V * N, C, H, W). V is the number of points (steps and budgets) at
        which targets see the N images. In a search for the minimal RMSD, the second value is float32 (2, N, C, H, W)
        instead: the clean images, and the direction of the search for each image.
        """
        begun = time.perf_counter()
        activity.here.begin()
        try:
            result, crafted = self._craft(request, job, pixels)
        except StudyError:
            raise
        except Exception as error:
            raise self._located(error) from error
        return replace(result, seconds=time.perf_counter() - begun, loads=self._cache.loads()), crafted

    def _craft(
        self, request: ModelRequest, job: CraftJob, pixels: NDArray[np.uint8]
    ) -> tuple[CraftResult, NDArray[Any]]:
        from study.attacks.budget import all_distances
        from study.attacks.kinds import Pool
        from study.attacks.loop import ImageBatch, craft, step_directions

        self._install()
        count = len(job.images)
        clean = pixels[:count]
        if job.attack.precomputed is not None:
            crafted = pixels[count:]
            moved = PixelDistances(*all_distances(clean, crafted).T)
            return CraftResult(self._measured(moved, clean, crafted)), crafted
        images = ImageBatch(
            clean, np.array(job.labels, dtype=np.int64), job.images, own=np.array(job.true_labels, dtype=np.int64)
        )
        engine = self._engine()
        models = self._cache.get(request)
        names = tuple(request.models)
        if job.attack.external is not None:
            return self._external(job, images, models, names)
        pool = Pool(pixels[count:], np.array(job.pool, dtype=np.int64)) if job.pool else None
        if job.attack.budget.minimal is not None:
            directions = step_directions(
                models, job.attack, job.goal, images, key=job.key, engine=engine, names=names, pool=pool
            )
            return CraftResult(PixelDistances.zeros(count)), np.stack([clean.astype(np.float32), directions])
        outcome = craft(
            models,
            job.attack,
            job.goal,
            images,
            key=job.key,
            engine=engine,
            names=names,
            rmsd=None if job.rmsd is None else np.array(job.rmsd, dtype=np.float64),
            pool=pool,
        )
        note, passes = None, None
        if outcome.max_pass_images < engine.pass_limit:
            passes = outcome.max_pass_images
            held = " + ".join(names)
            note = f"out of memory on {held}: crafted in passes of {_images(passes)}, so rounding may differ"
        distances = PixelDistances(outcome.rmsd, outcome.linf, outcome.l2, passes=passes)
        return CraftResult(self._measured(distances, clean, outcome.pixels), note=note), outcome.pixels

    def _measured(
        self, distances: PixelDistances, clean: NDArray[np.uint8], adversarial: NDArray[np.uint8]
    ) -> PixelDistances:
        """Return `distances` with measures of visibility added: SSIM, CIEDE2000 and, if the spec has it, LPIPS."""
        from study.visibility.measures import visibility

        seen = visibility(clean, adversarial, self._cache.device, self._lpips)
        return replace(distances, ssim=seen.ssim, ciede2000=seen.ciede2000, lpips=seen.lpips)

    @functools.cached_property
    def _lpips(self) -> Lpips | None:
        if self._config.lpips is None:
            return None
        from study.visibility import lpips

        return lpips.load(self._config.lpips, self._cache.device)

    def _external(
        self, job: CraftJob, images: ImageBatch, models: Sequence[Classifier], names: Sequence[str]
    ) -> tuple[CraftResult, NDArray[np.uint8]]:
        """Run an attack of another library on the images of a unit. Returns the result, and the adversarial images."""
        from study.attacks.budget import all_distances
        from study.attacks.external.run import run_external

        assert job.attack.external is not None, "only attacks of other libraries come here"
        with user_files.carried(self._config.code.functions):
            made = run_external(
                job.attack.external,
                models,
                images,
                job.goal,
                epsilon=job.attack.budget.levels[0],
                key=job.key,
                engine=self._engine(),
                networks=[self._config.models[name].bare_name for name in names],
                allow_code=self._config.allow_code,
            )
        rmsd, linf, l2 = all_distances(images.clean, made.pixels).T
        distances = PixelDistances(rmsd, linf, l2, gradients=round(made.gradients))
        return CraftResult(self._measured(distances, images.clean, made.pixels), remark=made.note), made.pixels

    def _located(self, error: Exception) -> Exception:
        """Return an error that explains `error`, or `error` itself if there is nothing to explain.

        An error of a component in a user's file becomes a StudyError with file and line.
        """
        if fault(error) is not None:
            # CUDA reports errors late, often at an unrelated line. So naming this line would mislead.
            return error
        known = numerics.not_deterministic(error)
        if known is not None:
            return known
        place = user_files.line_in(error, (own for _, own in self._config.code.components))
        if not place:
            return error
        return StudyError(f"{type(error).__name__}: {first_line(error)}", where=place, todo="fix the file")

    def _install(self) -> None:
        """Load the components in the user's own files, if they are not loaded yet."""
        if not self._installed:
            own_code.install(self._config.code.components)
            self._installed = True

    def _engine(self) -> Engine:
        from study.attacks.loop import Engine

        used = self._config.numerics
        return Engine(
            batch=used.batch,
            max_pass_images=used.max_pass_images,
            device=self._cache.device,
            layout=used.layout,
            precision=numerics.settled(used.precision, self._cache.device),
        )

    def probe(self, request: ModelRequest, job: ProbeJob, pixels: NDArray[np.uint8]) -> ProbeResult:
        """Answer the question of a probe about the geometry of models around clean images, `uint8` (N, C, H, W)."""
        from study.geometry.compute_probe import answer

        begun = time.perf_counter()
        activity.here.begin()
        self._install()
        held = dict(zip(request.models, self._cache.get(request), strict=True))
        precision = self._config.numerics.target_precision
        rows = answer(job.unit, job.question, held, pixels, engine=self._engine(), precision=precision)
        return ProbeResult(rows, seconds=time.perf_counter() - begun, loads=self._cache.loads())

    def predict(self, request: ModelRequest, job: PredictJob, pixels: NDArray[Any]) -> PredictResult:
        """Show images to the targets, and return their predictions.

        `pixels`: `uint8` (V * N, C, H, W), V versions of each of N images. In a search for the minimal RMSD, `pixels`
        are float32 (2, N, C, H, W): the clean images, and the directions that `craft` returned. The search then follows
        these directions for each target. Predictions have the precision `numerics.target_precision`, which does not
        depend on the precision of gradients.
        """
        begun = time.perf_counter()
        activity.here.begin()
        self._install()
        held = dict(zip(request.models, self._cache.get(request), strict=True))
        there = self._there(job, pixels)
        found = []
        for target in job.targets:
            with activity.here.at(f"showing images to {target}"):
                found.append(self._predict(target, held[target], job, pixels, there))
        notes = [
            f"out of memory on {result.answers.target}: predicted in passes of {_images(size)}, so rounding may differ"
            for result, size in found
            if size < self._size(job)
        ]
        return PredictResult(
            tuple(result for result, _ in found),
            seconds=time.perf_counter() - begun,
            loads=self._cache.loads(),
            note="; ".join(notes) or None,
        )

    def _size(self, job: PredictJob) -> int:
        return numerics.pass_size(job.batch, self._cache.device)

    def _smaller(self, size: int, job: PredictJob) -> int | None:
        """Return `size`, the number of images in a pass, if it is smaller than planned; otherwise None."""
        return size if size < self._size(job) else None

    def _there(self, job: PredictJob, pixels: NDArray[Any]) -> Tensor | None:
        """Copy the images to the device, once for all targets that see them unchanged, and return the copy.

        Returns None if the images stay on the host.
        """
        device = self._cache.device
        unchanged = any(self._config.models[target].transform is None for target in job.targets)
        if is_host(device) or not job.images or job.search or not unchanged or pixels.nbytes > _MOST_AT_ONCE:
            return None
        there = attempt(functools.partial(uploaded, pixels, device))
        return None if isinstance(there, OutOfMemory) else there

    def _predict(
        self, target: str, classifier: Classifier, job: PredictJob, pixels: NDArray[Any], there: Tensor | None
    ) -> tuple[TargetResult, int]:
        """Return the predictions of one target, and the number of images in a pass.

        `there`: the images on the device; None if they stay on the host.
        """
        from study.models.predict import predict

        model, device, size = self._config.models[target], self._cache.device, job.batch
        stages = self._cache.stages(target)

        def show(images: NDArray[np.uint8] | Tensor, ids: tuple[str, ...]) -> Prediction:
            nonlocal size
            precision, whole, name = self._config.numerics.target_precision, job.probabilities, f"model '{target}'"
            if stages is None:
                found = predict(
                    classifier, images, batch=size, device=device, precision=precision, whole=whole, name=name,
                    images=ids,
                )  # fmt: skip
            else:
                from study.defences.stages import Shown

                shown = Shown(images, ids, (self._config.seed, target))
                found = stages.predict(classifier, shown, batch=size, precision=precision, whole=whole, name=name)
            # A search calls this function often. So a number of images per pass that did not fit is not tried again.
            size = min(size, found.size)
            return found

        described = model.describe(classifier.describe(), None if stages is None else stages.digest)
        if not job.images:
            nothing = TargetAnswers(target, np.empty((0, 0), np.int32), np.empty((0, 0), np.float32))
            return TargetResult(nothing, described), self._size(job)
        if job.search is not None:
            from study.attacks.minimal_norm import minimal_rmsd

            found = minimal_rmsd(show, pixels, job.search, batch=self._size(job), device=device)
            distances = PixelDistances(*found.distances.T)
            made, size = found.prediction, found.prediction.size
            answers = TargetAnswers(
                target, made.top5, made.top5_prob, distances, found.levels, passes=self._smaller(size, job),
                abstained=made.abstained,
            )  # fmt: skip
            return TargetResult(answers, described), size
        seen = show(pixels if there is None or model.transform is not None else there, job.images)
        passes = self._smaller(seen.size, job)
        answers = TargetAnswers(target, seen.top5, seen.top5_prob, passes=passes, abstained=seen.abstained)
        return TargetResult(answers, described, seen.whole), seen.size


def _use(device: str) -> None:
    """Compute one convolution on a device, and wait for the result."""
    import torch

    image, kernel = torch.ones(1, 3, 8, 8, device=device), torch.ones(4, 3, 3, 3, device=device)
    torch.nn.functional.conv2d(image, kernel).sum().item()


def _images(count: int) -> str:
    return f"{count} image{'s' * (count != 1)}"
