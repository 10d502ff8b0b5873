"""A worker: models pinned to a device. A clean batch in, an adversarial one out; any batch in, predictions out."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from actors.scheduling.messages import Answer, Answers, CraftJob, Made, PredictJob, Probed, ProbeJob
from actors.workers.model_cache import ModelRequest, Pinned
from actors.workers.worker_config import WorkerConfig
from study.defences.transforms import shown
from study.reproducibility import float_environment, numerics
from study.reproducibility.float_environment import Arithmetic
from study.results.schema import Distances, TargetAnswers

if TYPE_CHECKING:
    from study.attacks.loop import Engine
    from study.models.classifier import Classifier
    from study.models.predict import Prediction


class Worker:
    """The work of an actor that holds models, without Ray."""

    def __init__(self, kit: WorkerConfig, device: str) -> None:
        self._pinned = Pinned(kit, device)
        self._kit = kit

    def hello(self) -> Arithmetic:
        """What it computes with, when the process is up and torch is loaded."""
        return float_environment.here(self._pinned.device)

    def craft(self, pin: ModelRequest, job: CraftJob, pixels: NDArray[np.uint8]) -> tuple[Made, NDArray[Any]]:
        """Craft the unit's images, which `pixels`, `uint8` (N + others, C, H, W), begins with; the others are the
        pool, or the N adversarial images that another tool has made.

        The second value holds V variants of N images, `uint8` (V * N, C, H, W); or, for a search of the minimal RMSD,
        float32 (2, N, C, H, W): the clean images and the direction in which each moves.
        """
        begun = time.perf_counter()
        made, finished = self._craft(pin, job, pixels)
        return replace(made, seconds=time.perf_counter() - begun, loads=self._pinned.loads()), finished

    def _craft(self, pin: ModelRequest, job: CraftJob, pixels: NDArray[np.uint8]) -> tuple[Made, NDArray[Any]]:
        from study.attacks.budget import all_distances
        from study.attacks.loop import ImageBatch, craft, step_directions
        from study.attacks.views import Pool

        wanted, count = self._kit.numerics, len(job.images)
        clean = pixels[:count]
        if job.attack.precomputed is not None:
            given = pixels[count:]
            return Made(Distances(*all_distances(clean, given).T)), given
        numerics.set_precision(wanted.precision)
        images = ImageBatch(
            clean, np.array(job.labels, dtype=np.int64), job.images, own=np.array(job.own, dtype=np.int64)
        )
        engine = self._engine()
        models = self._pinned.get(pin)
        names = tuple(pin.models)
        pool = Pool(pixels[count:], np.array(job.pool, dtype=np.int64)) if job.pool else None
        if job.attack.budget.minimal is not None:
            found = step_directions(
                models, job.attack, job.goal, images, key=job.key, engine=engine, names=names, pool=pool
            )
            return Made(Distances.nowhere(count)), np.stack([clean.astype(np.float32), found])
        crafted = craft(
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
        note = None
        if crafted.max_pass_images < engine.pass_limit:
            most = crafted.max_pass_images
            note = f"out of memory on {' + '.join(names)}: crafted in passes of {most} images, other rounding"
        return Made(Distances(crafted.rmsd, crafted.linf, crafted.l2), note=note), crafted.pixels

    def _engine(self) -> Engine:
        from study.attacks.loop import Engine

        wanted = self._kit.numerics
        return Engine(
            batch=wanted.batch,
            max_pass_images=wanted.max_pass_images,
            device=self._pinned.device,
            layout=wanted.layout,
            precision=wanted.precision,
        )

    def probe(self, pin: ModelRequest, job: ProbeJob, pixels: NDArray[np.uint8]) -> Probed:
        """Answer a question about the geometry of models around clean images, `uint8` (N, C, H, W)."""
        from study.geometry.probe_rows import answer

        begun = time.perf_counter()
        held = dict(zip(pin.models, self._pinned.get(pin), strict=True))
        rows = answer(job.unit, job.question, held, pixels, engine=self._engine())
        return Probed(rows, seconds=time.perf_counter() - begun, loads=self._pinned.loads())

    def predict(self, pin: ModelRequest, job: PredictJob, pixels: NDArray[Any]) -> Answers:
        """Show `uint8` images (V * N, C, H, W) to target models, or search float32 rays (2, N, C, H, W) for each.

        In float32, whatever precision gradients may have.
        """
        begun = time.perf_counter()
        numerics.set_precision("float32")
        held = dict(zip(pin.models, self._pinned.get(pin), strict=True))
        found = [self._predict(target, held[target], job, pixels) for target in job.targets]
        notes = [
            f"out of memory on {answer.said.target}: predicted in passes of {size} images, other rounding"
            for answer, size in found
            if size < self._size(job)
        ]
        return Answers(
            tuple(answer for answer, _ in found),
            seconds=time.perf_counter() - begun,
            loads=self._pinned.loads(),
            note="; ".join(notes) or None,
        )

    def _size(self, job: PredictJob) -> int:
        return numerics.pass_size(job.batch, self._pinned.device)

    def _predict(
        self, target: str, classifier: Classifier, job: PredictJob, pixels: NDArray[Any]
    ) -> tuple[Answer, int]:
        """What one target says, and the images in its passes."""
        from study.models.predict import predict

        model = self._kit.models[target]

        def show(images: NDArray[np.uint8], ids: tuple[str, ...]) -> Prediction:
            seen = shown(model.transform, images, (self._kit.seed, target), ids)
            return predict(
                classifier,
                seen,
                batch=job.batch,
                device=self._pinned.device,
                whole=job.whole,
                name=f"model '{target}'",
                images=ids,
            )

        described = model.describe(classifier.describe())
        if job.search is not None:
            from study.attacks.minimal_norm import minimal_rmsd

            found = minimal_rmsd(show, pixels, job.search, batch=self._size(job))
            said = TargetAnswers(
                target,
                found.prediction.top5,
                found.prediction.top5_prob,
                Distances(*found.distances.T),
                found.levels,
            )
            return Answer(said, described), found.prediction.size
        seen = show(pixels, job.images)
        return Answer(TargetAnswers(target, seen.top5, seen.top5_prob), described, seen.whole), seen.size
