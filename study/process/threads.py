"""Runs work on the CPU in several threads, while a GPU computes."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from study.devices.copies import is_host

Made = TypeVar("Made")

_MOST, _FEW = 8, 4


def threads_here() -> int:
    """Return the number of threads for work on files and images: one for each core, up to 8."""
    return min(_MOST, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)


def host_threads(device: str) -> int:
    """Return the number of threads for work on the host while models compute on `device`.

    The number is 1 if `device` is the CPU, because the models occupy its cores. Otherwise it is `threads_here()`.
    """
    return 1 if is_host(device) else threads_here()


def in_threads(do: Callable[..., Made], arguments: Iterable[tuple[Any, ...]], threads: int) -> list[Made]:
    """Call `do` with each tuple of `arguments` in `threads` threads, and return the results in the same order.

    If calls fail, the error of the first failed call in this order is raised. Fewer than four calls need no threads,
    and run one after another.
    """
    given = list(arguments)
    if threads == 1 or len(given) < _FEW:
        return [do(*one) for one in given]
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(lambda one: do(*one), given))
