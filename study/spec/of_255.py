"""Lengths such as `8/255`, as papers and other libraries write them for images scaled to 0..1."""

from __future__ import annotations

import re
from typing import Any

PATTERN = r"\s*(\d+(?:\.\d+)?)\s*/\s*255\s*"

_FRACTION = re.compile(PATTERN)


def numerator(given: Any) -> float | None:
    """Return 8.0 for the text `8/255`, and None for everything that is not such a text."""
    found = _FRACTION.fullmatch(given) if isinstance(given, str) else None
    return None if found is None else float(found[1])
