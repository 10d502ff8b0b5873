"""A target actor: models pinned to a device; a batch of finished images in, predictions out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from actors.pinned import Pin, Pinned
from study.attacks.recipe import Search
from study.models.reference import Model
from study.numerics import Numerics
from study.results.schema import Moved, Said


@dataclass(frozen=True)
class PredictJob:
    """Which model is asked, in batches of what size; with a `search`, how far images must move for it."""

    target: str
    batch: int
    search: Search | None = None


@dataclass(frozen=True)
class Answer:
    """What a target said, and what the model that said it is (digest, parameters, input)."""

    said: Said
    model: Mapping[str, Any]


class Target:
    """The work of a target actor, without Ray."""

    def __init__(self, models: Mapping[str, Model], device: str, numerics: Numerics) -> None:
        self._pinned = Pinned(models, device, numerics, exact=True)

    def hello(self) -> None:
        """Answers when the process is up and torch is loaded."""

    def work(self, pin: Pin, job: PredictJob, pixels: NDArray[Any]) -> Answer:
        """Show `uint8` images (N, 3, H, W) to the target model, or search float32 rays (2, N, 3, H, W)."""
        from study.models.predict import predict

        (model,) = self._pinned.get(pin)
        if job.search is not None:
            from study.attacks.minimal import smallest

            found = smallest(model, pixels, job.search, batch=job.batch, device=self._pinned.device)
            moved = Moved(*found.moved.T)
            said = Said(job.target, found.said.top5, found.said.top5_prob, moved, found.levels)
            return Answer(said, model.describe())
        seen = predict(model, pixels, batch=job.batch, device=self._pinned.device)
        return Answer(Said(job.target, seen.top5, seen.top5_prob), model.describe())
