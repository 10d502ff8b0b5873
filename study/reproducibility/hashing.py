"""Computes digests of plain data. All ids and all keys of random numbers are made from these digests."""

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
    """Return plain data in a canonical form, which is the same for equal data: sorted keys, 2 for 2.0, 0 for -0.0.

    True and 1 remain different. "1" and 1 remain different too.
    """
    if isinstance(value, Mapping):
        return {key: canonical(value[key]) for key in sorted(value, key=str)}
    if isinstance(value, list | tuple):
        return [canonical(one) for one in value]
    if isinstance(value, float) and value.is_integer() and abs(value) < _EXACT:
        return int(value)
    return value


def same(left: Any, right: Any) -> bool:
    """Return whether two values of plain data have equal canonical forms. Unlike for `==`, True and 1 are unequal."""
    return repr(canonical(left)) == repr(canonical(right))
