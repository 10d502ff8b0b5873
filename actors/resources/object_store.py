"""Limits for the bytes of pixels in Ray's object stores, and the size of a local Ray's object store."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from actors.resources import shards
from actors.scheduling.policy import QUEUE
from study.spec.schema import Spec

_LEAST = 2**28
_USABLE = 0.8
"""Usable fraction of an object store. If more is in use, Ray starts to write objects to disk."""
_OF_MEMORY = 0.3
"""Largest fraction of the free memory that the object store of a local Ray may take."""


@dataclass(frozen=True)
class PixelBudgets:
    """Limits for the pixels in object stores, in bytes.

    Attributes:
        clean: Limit for clean images that actors can read.
        waiting: Limit for adversarial images that wait for targets, for each worker.
        result: Largest size of the result of one call.
    """

    clean: int
    waiting: int
    result: int

    def store_bytes(self, workers: int) -> int:
        """Return the bytes of an object store that holds these pixels on a machine with `workers` workers."""
        return math.ceil((self.clean + workers * (self.waiting + QUEUE * self.result)) / _USABLE)


def pixel_budgets(spec: Spec, *, gpus: bool = False) -> PixelBudgets:
    """Return the limits that a spec sets. `gpus`: whether workers run on GPUs.

    When the limit `waiting` is reached, no new attack starts. Each worker may still finish the calls that it has.
    """
    result = shards.largest(spec, gpus=gpus) * shards.result_bytes(spec)
    return PixelBudgets(spec.run.clean_mib * 2**20, spec.run.waiting_mib * 2**20, result)


def fitting(budgets: PixelBudgets, stores: Sequence[float], workers: int) -> PixelBudgets:
    """Return `budgets`, reduced so that they fit in the smallest of the object stores.

    `clean` and `waiting` share what the results of calls leave, because results cannot be smaller. Each of them keeps
    the size of one result, even if this does not fit: with less, workers would wait for each other. Ray then moves
    pixels to disk.

    `stores`: bytes of the object store of each machine. The workers are assumed to be spread evenly over the machines.
    If `stores` is empty, `budgets` are returned unchanged.
    """
    if not stores:
        return budgets
    each = math.ceil(workers / len(stores))
    left = _USABLE * min(stores) - each * QUEUE * budgets.result
    share = min(1.0, max(0.0, left / (budgets.clean + each * budgets.waiting)))
    clean, waiting = (max(int(size * share), min(size, budgets.result)) for size in (budgets.clean, budgets.waiting))
    return PixelBudgets(clean, waiting, budgets.result)


def local_store_bytes(spec: Spec, cores: int, shared: float, memory: float, gpus: int = 0) -> int:
    """Return the bytes of a local Ray's object store, which must hold the pixels of all workers.

    `gpus`: number of GPUs; with 0, workers run on `cores` cores. `shared`: free bytes of shared memory. `memory`: free
    bytes of memory. Both limit the size of the store, but it has at least 256 MiB.
    """
    gpus = 0 if spec.run.device == "cpu" else gpus
    usual = gpus * (spec.run.actors_per_gpu or 1) if gpus else max(1, cores // spec.numerics.threads)
    wanted = pixel_budgets(spec, gpus=gpus > 0).store_bytes(spec.run.actors or usual)
    return int(max(_LEAST, min(wanted, shared, _OF_MEMORY * memory)))


def here(spec: Spec, gpus: int = 0) -> int:
    """Return `local_store_bytes` for this machine, with the memory that is free now. `gpus`: number of GPUs."""
    return local_store_bytes(spec, os.cpu_count() or 1, _shared_memory(), free_memory(), gpus)


def reduction(budgets: PixelBudgets) -> str:
    """Return the message that says how far the limits were reduced. `budgets`: the reduced limits."""
    clean, waiting = (_mib(size) for size in (budgets.clean, budgets.waiting))
    return (
        f"a machine's object store is smaller than the pixel budgets of the spec: run.clean_mib is reduced to {clean}, "
        f"run.waiting_mib to {waiting}"
    )


def _mib(size: int) -> str:
    return "less than 1" if size < 2**20 else f"{size / 2**20:.0f}"


def _shared_memory() -> float:
    try:
        found = os.statvfs("/dev/shm")
    except OSError:
        return math.inf
    return 0.95 * found.f_frsize * found.f_bavail


def free_memory() -> float:
    """Return the bytes of free memory on this machine.

    If this process's control group (cgroup) has a memory limit, the result is at most what is left of this limit. If
    the free memory is unknown, the result is half of the machine's memory.
    """
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
