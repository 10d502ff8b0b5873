"""A target actor: models pinned to a device; a batch of finished images in, predictions out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from actors.kit import Kit
from actors.pinned import Pin, Pinned
from study.attacks.recipe import Search
from study.results.schema import Moved, Said

if TYPE_CHECKING:
    from study.models.predict import Prediction


@dataclass(frozen=True)
class PredictJob:
    """Which model is asked about which images, in batches of what size; with a `search`, how far they must move for it.

    `whole` asks for the probabilities of all labels.
    """

    target: str
    batch: int
    images: tuple[str, ...]
    search: Search | None = None
    whole: bool = False


@dataclass(frozen=True)
class Answer:
    """What a target said, and what the model that said it is (digest, parameters, input).

    `whole`, where it was asked for, is float32 (N, labels): the probabilities of all labels.
    """

    said: Said
    model: Mapping[str, Any]
    whole: NDArray[np.float32] | None = None


class Target:
    """The work of a target actor, without Ray."""

    def __init__(self, kit: Kit, device: str) -> None:
        self._pinned = Pinned(kit, device, exact=True)
        self._kit = kit

    def hello(self) -> None:
        """Answers when the process is up and torch is loaded."""

    def work(self, pin: Pin, job: PredictJob, pixels: NDArray[Any]) -> Answer:
        """Show `uint8` images (V * N, C, H, W) to the target model, or search float32 rays (2, N, C, H, W)."""
        from study.models.predict import predict

        (classifier,) = self._pinned.get(pin)
        transform = self._kit.models[job.target].transform

        def show(images: NDArray[np.uint8], ids: tuple[str, ...]) -> Prediction:
            seen = transformed(transform, images, self._kit.seed, job.target, ids)
            return predict(classifier, seen, batch=job.batch, device=self._pinned.device, whole=job.whole)

        model = self._kit.models[job.target].describe(classifier.describe())
        if job.search is not None:
            from study.attacks.minimal import smallest

            found = smallest(show, pixels, job.search, batch=job.batch)
            moved = Moved(*found.moved.T)
            return Answer(Said(job.target, found.said.top5, found.said.top5_prob, moved, found.levels), model)
        seen = show(pixels, job.images)
        return Answer(Said(job.target, seen.top5, seen.top5_prob), model, seen.whole)


def transformed(
    transform: Any, pixels: NDArray[np.uint8], seed: int, target: str, ids: tuple[str, ...]
) -> NDArray[np.uint8]:
    """Images (V * N, C, H, W) as `target` gets them behind its `transform`, if it has one; `ids` are those of N images.

    A random transformation draws from the study's seed, the target and the image: clean or adversarial, by whichever
    attack, an image meets the same draw, so that what attacks differ in is not the luck of a draw.
    """
    if transform is None:
        return pixels
    from study.models.transforms import apply

    keys = [(seed, target, image) for image in ids] * (len(pixels) // len(ids))
    return apply(transform, pixels, keys)
