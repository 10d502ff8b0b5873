"""Pixels that wait in Ray's object stores: how many bytes they may be, and how large the store of a local Ray is."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from actors.scheduling.policy import QUEUE
from study.spec.schema import Spec

_LEAST = 2**28
_FULL = 0.8
"""Share of a store that is used: beyond it Ray writes to disk."""
_OF_MEMORY = 0.3
"""Share of the free memory that a local Ray's store may take."""


@dataclass(frozen=True)
class Budgets:
    """Bytes: of clean images that actors can read, of batches that wait for each worker, and of a call's result."""

    clean: int
    waiting: int
    result: int

    def on(self, workers: int) -> int:
        """What a store needs for them on a machine with so many workers."""
        return math.ceil((self.clean + workers * (self.waiting + QUEUE * self.result)) / _FULL)


def asked(spec: Spec) -> Budgets:
    """The budgets of a spec. While they are full, each worker may still end the calls that it has."""
    floats = any(attack.budget.minimal is not None for attack in spec.attacks.values())
    most = max([8 * floats, *(len(attack.points) for attack in spec.attacks.values())])
    return Budgets(spec.run.clean_mib * 2**20, spec.run.waiting_mib * 2**20, spec.run.shard * spec.images.bytes * most)


def fitting(budgets: Budgets, stores: Sequence[float], workers: int) -> Budgets:
    """The budgets, smaller where one of the machines' `stores` would not hold those of its share of the workers."""
    if not stores:
        return budgets
    needed = budgets.on(math.ceil(workers / len(stores)))
    share = min(1.0, min(stores) / needed)
    return Budgets(int(budgets.clean * share), int(budgets.waiting * share), budgets.result)


def local(spec: Spec, cores: int, shared: float, memory: float) -> int:
    """Bytes of a local Ray's store: what the budgets need on so many cores, as far as `shared` memory and free
    `memory` have room."""
    workers = spec.run.actors or max(1, cores // spec.numerics.threads)
    return int(max(_LEAST, min(asked(spec).on(workers), shared, _OF_MEMORY * memory)))


def here(spec: Spec) -> int:
    """`local` on this machine, as it is now."""
    return local(spec, os.cpu_count() or 1, _shared(), _memory())


def told(wanted: Budgets, there: Budgets) -> str | None:
    """What is said where budgets had to be made smaller."""
    if there == wanted:
        return None
    clean, waiting = (f"{size / 2**20:.0f}" for size in (there.clean, there.waiting))
    return (
        f"the object store of a machine holds less than the budgets of the spec: run.clean_mib counts as {clean}, "
        f"run.waiting_mib as {waiting}"
    )


def _shared() -> float:
    try:
        found = os.statvfs("/dev/shm")
    except OSError:
        return math.inf
    return 0.95 * found.f_frsize * found.f_bavail


def _memory() -> float:
    """Free memory, within the limit of this process's control group."""
    try:
        lines = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
        free = 1024.0 * float(lines["MemAvailable"].split()[0])
    except (OSError, KeyError, ValueError):
        return float(os.sysconf("SC_PHYS_PAGES")) * os.sysconf("SC_PAGE_SIZE") / 2
    try:
        group = Path("/sys/fs/cgroup")
        limit = float((group / "memory.max").read_text()) - float((group / "memory.current").read_text())
    except (OSError, ValueError):
        return free
    return min(free, limit)
