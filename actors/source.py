"""A source actor: models pinned to a device; a unit's clean batch in, its adversarial batch out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from actors.pinned import Pin, Pinned
from study.attacks.recipe import Attack, Goal
from study.models.reference import Model
from study.results.schema import Moved


@dataclass(frozen=True)
class CraftJob:
    """All of a unit but its pixels. `labels` are those that the objective is about, `rmsd` matched budgets."""

    attack: Attack
    goal: Goal
    key: tuple[object, ...]
    images: tuple[str, ...]
    labels: tuple[int, ...]
    rmsd: tuple[float, ...] | None
    batch: int


class Source:
    """The work of a source actor, without Ray."""

    def __init__(self, models: Mapping[str, Model], device: str, threads: int) -> None:
        self._pinned = Pinned(models, device, threads)

    def hello(self) -> None:
        """Answers when the process is up and torch is loaded."""

    def work(self, pin: Pin, job: CraftJob, clean: NDArray[np.uint8]) -> tuple[Moved, NDArray[np.uint8]]:
        """Craft `clean`, `uint8` (N, 3, H, W): how far the images moved, and the images."""
        from study.attacks.loop import craft

        crafted = craft(
            self._pinned.get(pin),
            job.attack,
            job.goal,
            clean=clean,
            labels=np.array(job.labels, dtype=np.int64),
            images=job.images,
            key=job.key,
            batch=job.batch,
            rmsd=None if job.rmsd is None else np.array(job.rmsd, dtype=np.float64),
            device=self._pinned.device,
        )
        return Moved(crafted.rmsd, crafted.linf, crafted.l2), crafted.pixels
