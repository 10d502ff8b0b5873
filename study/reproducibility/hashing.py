"""Digests of plain data: the source of every id and every random key."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

_EXACT = 2**53


def digest(*parts: object) -> str:
    """SHA-256, in hexadecimal, of `parts` as canonical JSON: the source of every id and every key."""
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def canonical(value: Any) -> Any:
    """Plain data in the one form that equal data have: mappings in the order of their keys, 2.0 as 2, -0.0 as 0.

    True and 1 stay apart, and so do a text and the number that it spells.
    """
    if isinstance(value, Mapping):
        return {key: canonical(value[key]) for key in sorted(value, key=str)}
    if isinstance(value, list | tuple):
        return [canonical(one) for one in value]
    if isinstance(value, float) and value.is_integer() and abs(value) < _EXACT:
        return int(value)
    return value


def same(left: Any, right: Any) -> bool:
    """Whether plain data are equal as digests see them; Python takes True for 1."""
    return repr(canonical(left)) == repr(canonical(right))
