"""Tables that are computed on the host once and then stay on a device."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar, cast

Given = ParamSpec("Given")
Made = TypeVar("Made")

_MOST = 64
_forgetting: list[Callable[[], Any]] = []


def kept(make: Callable[Given, Made]) -> Callable[Given, Made]:
    """Return `make` with a cache of the tables for the 64 most recently used combinations of arguments.

    One argument of `make` must be the device, so that each device has its own table. Callers must not write into a
    table.
    """
    cached = functools.lru_cache(maxsize=_MOST)(make)
    _forgetting.append(cached.cache_clear)
    return cast(Callable[Given, Made], cached)


def forget() -> None:
    """Free all cached tables on all devices."""
    for one in _forgetting:
        one()
