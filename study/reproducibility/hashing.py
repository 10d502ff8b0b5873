"""Digests of plain data. All ids and all keys of random numbers are built from them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

_EXACT = 2**53


def digest(*parts: object) -> str:
    """Return the SHA-256, in hexadecimal, of `parts` as canonical JSON."""
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def canonical(value: Any) -> Any:
    """Return plain data in one form for all equal data: keys sorted, 2.0 as 2, -0.0 as 0.

    True and 1 remain different, and so do "1" and 1.
    """
    if isinstance(value, Mapping):
        return {key: canonical(value[key]) for key in sorted(value, key=str)}
    if isinstance(value, list | tuple):
        return [canonical(one) for one in value]
    if isinstance(value, float) and value.is_integer() and abs(value) < _EXACT:
        return int(value)
    return value


def same(left: Any, right: Any) -> bool:
    """Return whether plain data have equal canonical forms. Python's `==` would treat True and 1 as equal."""
    return repr(canonical(left)) == repr(canonical(right))
