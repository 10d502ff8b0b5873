"""Work on the host in several threads, while a GPU does the rest."""

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
    """Return the number of threads for work beside `device`: 1 on a CPU, whose cores have the models to compute."""
    return 1 if is_host(device) else threads_here()


def in_threads(do: Callable[..., Made], arguments: Iterable[tuple[Any, ...]], threads: int) -> list[Made]:
    """Return what `do` makes of each tuple of arguments, in their order, with `threads` at work.

    Raises what `do` raises for the first of them that fails.
    """
    given = list(arguments)
    if threads == 1 or len(given) < _FEW:
        return [do(*one) for one in given]
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(lambda one: do(*one), given))
