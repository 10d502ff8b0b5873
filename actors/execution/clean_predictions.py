"""Clean predictions: the predictions of each model for each image before any attack."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from actors.backends.interface import ActorLost, CallFailed, Ref
from actors.execution.driver import Progress, Workload
from actors.execution.runtime import Runtime
from actors.scheduling.backlog import Task
from actors.scheduling.messages import PredictJob, TargetResult, Truth
from actors.scheduling.scheduler import Done, Failed
from study.errors import StudyError, first_line
from study.events.repairs import repaired
from study.images.selection import Clean
from study.spec.schema import Spec

_log = logging.getLogger(__name__)
_STEP = "clean pass"


@dataclass(frozen=True)
class Request:
    """Images, and the models that predict them.

    Attributes:
        models: Names of models. Either all are local, or all are remote services.
        images: The images, each `uint8` (C, H, W). If there are none, the models are only loaded and recorded.
        ids: The id of each image.
        labels: The true label of each image, with which the answers of services are compared. Unused for local models.
        digests: The digest that an earlier launch recorded for a model, by name. The model must have this digest.
        ranking: Models whose results must contain the probabilities of all labels.
    """

    models: Sequence[str]
    images: Sequence[NDArray[np.uint8]]
    ids: Sequence[str]
    digests: Mapping[str, str] = field(default_factory=dict)
    ranking: Sequence[str] = ()
    labels: Sequence[int] = ()


class CleanPredictions(Workload):
    """The workload of clean predictions: one call for each model and batch of images.

    The first failure ends the workload with a StudyError.
    """

    def __init__(self, spec: Spec, request: Request, runtime: Runtime) -> None:
        self._spec = spec
        self._request = request
        self._runtime = runtime
        # Without images, one call loads the model and returns its record.
        self._starts = range(0, max(1, len(request.images)), spec.numerics.batch)
        self._results: dict[tuple[str, int], TargetResult] = {}
        calls = len(self._starts) * len(request.models)
        self.progress = Progress({_STEP: calls}, {}, calls)

    def start(self) -> None:
        request, batch = self._request, self._spec.numerics.batch
        for start in self._starts:
            pixels = request.images[start : start + batch]
            ref = self._runtime.backend.put(np.stack(pixels) if pixels else np.empty(0, np.uint8))
            for name in request.models:
                self._runtime.scheduler.add(self._task(name, start, ref))

    def _task(self, name: str, start: int, ref: Ref) -> Task:
        request, batch = self._request, self._spec.numerics.batch
        service = name in self._spec.services
        job = PredictJob(
            (name,),
            batch,
            tuple(request.ids[start : start + batch]),
            probabilities=name in request.ranking,
            truth=Truth(tuple(request.labels[start : start + batch])) if service else None,
        )
        models = {name: request.digests.get(name)}
        return Task("predict", models, job, lambda: ref, float(max(1, len(job.images))), start, service=service)

    def handle(self, event: Done | Failed) -> None:
        if isinstance(event, Failed):
            raise _error(event)
        if event.value.note is not None:
            repaired("memory", f"{_STEP}: {event.value.note}")
        (result,) = event.value.targets
        self._results[result.answers.target, event.task.context] = result
        self._runtime.display.advance([_STEP])

    @property
    def models(self) -> dict[str, dict[str, Any]]:
        """The record (digest, number of parameters, input) of each model that was called, by name."""
        return {name: dict(result.model) for (name, _), result in self._results.items()}

    def prediction(self, name: str, row: int) -> Clean:
        """Return the prediction of the model `name` for the image at position `row`."""
        found, at = self._result(name, row).answers, row % self._spec.numerics.batch
        return Clean(
            tuple(found.top5[at].tolist()),
            tuple(found.top5_prob[at].tolist()),
            None if found.names is None else found.names[at],
            None if found.scores is None else found.scores[at],
            abstained=found.abstained is not None and bool(found.abstained[at]),
            sentence=None if found.sentences is None else found.sentences[at],
        )

    def probabilities(self, name: str, row: int) -> NDArray[np.float32]:
        """Return the probabilities of all labels for the image at position `row`, float32 (labels,).

        `name`: a model that the request names in `ranking`.
        """
        probabilities = self._result(name, row).probabilities
        assert probabilities is not None, f"the probabilities of {name} were requested"
        found: NDArray[np.float32] = probabilities[row % self._spec.numerics.batch]
        return found

    def _result(self, name: str, row: int) -> TargetResult:
        return self._results[name, row - row % self._spec.numerics.batch]


def _error(event: Failed) -> StudyError:
    (name,) = event.task.job.targets
    error = event.error
    if isinstance(error, StudyError):
        return error.located(f"models.{name}")
    if isinstance(error, ActorLost):
        return StudyError(
            f"the clean predictions of model '{name}' are not complete: {first_line(error)}",
            where=f"models.{name}",
            todo="check the machine, then launch again",
            status=1,
        )
    if isinstance(error, CallFailed) and error.traceback:
        _log.error(error.traceback)
    return StudyError(
        f"model '{name}' cannot predict clean images: {first_line(error)}",
        where=f"models.{name}",
        todo=f"check the arguments, the size and the weights of model '{name}'",
    )
