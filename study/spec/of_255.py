"""`8/255`: a length of images scaled to 0..1, as papers and other libraries write it."""

from __future__ import annotations

import re
from typing import Any

PATTERN = r"\s*(\d+(?:\.\d+)?)\s*/\s*255\s*"

_FRACTION = re.compile(PATTERN)


def numerator(given: Any) -> float | None:
    """Return the 8 of the text `8/255`; None for everything else."""
    found = _FRACTION.fullmatch(given) if isinstance(given, str) else None
    return None if found is None else float(found[1])
