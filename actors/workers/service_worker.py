"""The worker of a remote service: sends finished images to the service and returns the labels in its answers."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from actors.scheduling.messages import PredictJob, PredictResult, TargetResult
from actors.workers.model_cache import ModelRequest, check_digest
from actors.workers.worker_config import WorkerConfig
from study.attacks import own_code
from study.defences.transforms import transformed
from study.models.services.asking import Asking, Question
from study.results.schema import TargetAnswers

if TYPE_CHECKING:
    from study.defences.stages import Stages


class ServiceWorker:
    """Sends requests to a remote service. Each service has only one actor, which limits the rate of the requests."""

    def __init__(self, config: WorkerConfig, device: str) -> None:
        self._config = config
        self._services: dict[str, Asking] = {}
        self._stages: dict[str, Stages] = {}

    def hello(self) -> None:
        """Do nothing. An answer to this call shows that the process is up."""

    def predict(self, request: ModelRequest, job: PredictJob, pixels: NDArray[Any]) -> PredictResult:
        """Show images to the service, and return its answers.

        `pixels`: `uint8` (V * N, C, H, W), V versions of each of N images. An image that the service has answered
        before is not sent again: its answer comes from the cache. Raises StudyError if the service still fails after
        the number of attempts that the spec allows.
        """
        begun = time.perf_counter()
        (target,) = job.targets
        model, truth = self._config.models[target], job.truth
        assert model.remote is not None, "a service belongs to a remote model"
        assert truth is not None, "the driver gives the labels that a service's answers are compared with"
        if target not in self._services:
            access = self._config.services[target]
            self._services[target] = Asking(
                target,
                model.remote,
                self._config.labels,
                secrets=(access.secret, access.judge_secret),
                caches=(access.cache, access.verdicts),
            )
        service = self._services[target]
        stages = self._stages_of(target)
        described = model.describe(service.describe(), None if stages is None else stages.digest)
        check_digest(target, described["digest"], request.models[target], kind="service")
        shown = self._seen(target, pixels, job.images)
        said = service.answers(shown, Question(truth.labels, truth.target_labels, truth.clean_names))
        nothing = np.zeros((len(said.names), 0))
        answers = TargetAnswers(
            target,
            nothing.astype(np.int32),
            nothing.astype(np.float32),
            names=said.names,
            scores=said.scores,
            sentences=said.sentences,
            refused=said.refused,
            shown=said.shown,
        )
        return PredictResult((TargetResult(answers, described),), seconds=time.perf_counter() - begun)

    def _seen(self, target: str, pixels: NDArray[np.uint8], ids: Sequence[str]) -> NDArray[np.uint8]:
        """Return the images as the service gets them, after the defences in front of the service."""
        transform = self._config.models[target].transform
        if transform is None:
            return pixels
        stages = self._stages_of(target)
        if stages is None:
            return transformed(transform, pixels, (self._config.seed, target), ids)
        from study.defences.stages import Shown

        seen = stages.changed(Shown(pixels, ids, (self._config.seed, target)), self._config.numerics.batch)
        return seen if isinstance(seen, np.ndarray) else seen.numpy()

    def _stages_of(self, target: str) -> Stages | None:
        """Return the stages in front of the service, loaded once; None if no stage is a defence that must be loaded.

        Torch is imported only if there is such a defence.
        """
        transform = self._config.models[target].transform
        if transform is None or not transform.parts:
            return None
        if target not in self._stages:
            from study.defences.stages import Stages

            own_code.install(self._config.code.components)
            self._stages[target] = Stages(transform, "cpu")
        return self._stages[target]
