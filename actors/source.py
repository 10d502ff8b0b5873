"""A source actor: models pinned to a device; a unit's clean batch in, its adversarial batch out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from actors.kit import Kit
from actors.pinned import Pin, Pinned
from study.attacks.recipe import Attack, Goal
from study.results.schema import Moved


@dataclass(frozen=True)
class CraftJob:
    """All of a unit but its pixels. `labels` are those that the objective is about, `own` the images' true ones, `rmsd`
    matched budgets; `pool` are the labels of the images that stand behind the unit's own, for admix."""

    attack: Attack
    goal: Goal
    key: tuple[object, ...]
    images: tuple[str, ...]
    labels: tuple[int, ...]
    own: tuple[int, ...]
    rmsd: tuple[float, ...] | None
    pool: tuple[int, ...] = ()


@dataclass(frozen=True)
class Made:
    """What became of a unit: how far its images moved, and what its user should know."""

    moved: Moved
    note: str | None = None


class Source:
    """The work of a source actor, without Ray."""

    def __init__(self, kit: Kit, device: str) -> None:
        self._pinned = Pinned(kit, device, exact=False)

    def hello(self) -> None:
        """Answers when the process is up and torch is loaded."""

    def work(self, pin: Pin, job: CraftJob, pixels: NDArray[np.uint8]) -> tuple[Made, NDArray[Any]]:
        """Craft the unit's images, which `pixels`, `uint8` (N + others, C, H, W), begins with; the others are the
        pool, or the N adversarial images that another tool has made.

        The second value holds V variants of N images, `uint8` (V * N, C, H, W); or, for a search of the minimal RMSD,
        float32 (2, N, C, H, W): the clean images and the direction in which each moves.
        """
        from study.attacks.budget import all_distances
        from study.attacks.loop import Engine, Images, craft, rays
        from study.attacks.views import Pool

        numerics, count = self._pinned.kit.numerics, len(job.images)
        clean = pixels[:count]
        if job.attack.made is not None:
            given = pixels[count:]
            return Made(Moved(*all_distances(clean, given).T)), given
        images = Images(clean, np.array(job.labels, dtype=np.int64), job.images, own=np.array(job.own, dtype=np.int64))
        engine = Engine(
            batch=numerics.batch,
            room=numerics.room,
            device=self._pinned.device,
            layout=numerics.layout,
            precision=numerics.precision,
        )
        models = self._pinned.get(pin)
        names = tuple(pin.models)
        pool = Pool(pixels[count:], np.array(job.pool, dtype=np.int64)) if job.pool else None
        if job.attack.budget.minimal is not None:
            found = rays(models, job.attack, job.goal, images, key=job.key, engine=engine, names=names, pool=pool)
            return Made(Moved.nowhere(count)), np.stack([clean.astype(np.float32), found])
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
        if crafted.room < engine.whole:
            note = f"out of memory on {' + '.join(names)}: crafted in passes of {crafted.room} images, other rounding"
        return Made(Moved(crafted.rmsd, crafted.linf, crafted.l2), note), crafted.pixels
