"""A target actor: models pinned to a device; a batch of finished images in, predictions out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from actors.pinned import Pin, Pinned
from study.models.reference import Model
from study.results.schema import Said


@dataclass(frozen=True)
class PredictJob:
    """Which model is asked, in batches of what size."""

    target: str
    batch: int


@dataclass(frozen=True)
class Answer:
    """What a target said, and what the model that said it is (digest, parameters, input)."""

    said: Said
    model: Mapping[str, Any]


class Target:
    """The work of a target actor, without Ray."""

    def __init__(self, models: Mapping[str, Model], device: str, threads: int) -> None:
        self._pinned = Pinned(models, device, threads)

    def hello(self) -> None:
        """Answers when the process is up and torch is loaded."""

    def work(self, pin: Pin, job: PredictJob, pixels: NDArray[np.uint8]) -> Answer:
        """Show `uint8` images (N, 3, H, W) to the target model."""
        from study.models.predict import predict

        (model,) = self._pinned.get(pin)
        seen = predict(model, pixels, batch=job.batch, device=self._pinned.device)
        return Answer(Said(job.target, seen.top5, seen.top5_prob), model.describe())
