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
    """Cache the tables that `make` returns for its 64 most recent combinations of arguments.

    One argument must be the device. Callers must not write into a table.
    """
    cached = functools.lru_cache(maxsize=_MOST)(make)
    _forgetting.append(cached.cache_clear)
    return cast(Callable[Given, Made], cached)


def forget() -> None:
    """Free all tables on all devices."""
    for one in _forgetting:
        one()
