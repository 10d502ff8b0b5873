"""The actor that asks a remote service: a batch of finished images in, the service's own labels out."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from actors.scheduling.messages import Answer, Answers, PredictJob
from actors.workers.model_cache import ModelRequest, check_digest
from actors.workers.worker_config import WorkerConfig
from study.defences.transforms import transformed
from study.models.services.client import Service
from study.results.schema import TargetAnswers


class Asker:
    """The work of a service's actor, without Ray. One actor to a service: one clock paces all its requests."""

    def __init__(self, kit: WorkerConfig, device: str) -> None:
        self._kit = kit
        self._services: dict[str, Service] = {}

    def hello(self) -> None:
        """Answers when the process is up."""

    def predict(self, pin: ModelRequest, job: PredictJob, pixels: NDArray[Any]) -> Answers:
        """Send `uint8` images (V * N, C, H, W) to the service; what it has answered before is not asked again.

        Raises StudyError where it does not answer as often as the spec lets it try.
        """
        begun = time.perf_counter()
        (target,) = job.targets
        model = self._kit.models[target]
        assert model.remote is not None, "services are behind remote models"
        if target not in self._services:
            line = self._kit.lines[target]
            self._services[target] = Service(target, model.remote, secret=line.secret, cache=line.cache)
        service = self._services[target]
        described = model.describe(service.describe())
        check_digest(target, described["digest"], pin.models[target])
        replies = service.ask(transformed(model.transform, pixels, (self._kit.seed, target), job.images))
        nothing = np.zeros((len(replies), 0))
        said = TargetAnswers(
            target,
            nothing.astype(np.int32),
            nothing.astype(np.float32),
            names=tuple(reply.names for reply in replies),
            scores=tuple(reply.scores for reply in replies),
        )
        return Answers((Answer(said, described),), seconds=time.perf_counter() - begun)
