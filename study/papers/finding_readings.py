"""The readings of a finding (every cell, the average, some cell), in words, for commands and reports.

The reading that the finding claims comes first; the other readings are for context.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

READINGS = {"each": "every cell", "average": "the average", "some": "some cell"}
"""The readings of a finding, in words."""

EXPLANATION = (
    "The first line of a finding is its claim and decides its verdict; the others are for context. The average and "
    "every cell are two questions, each with its own interval, test and verdict. Every cell: the numbers are those of "
    "the cell that supports the claim least. Each cell is tested at 0.05; a cell refutes the claim only if it does so "
    "after Holm's correction."
)

NEEDED = (
    "Would decide: about how many images an undecided verdict needs, if effect and spread stay as they are (a normal "
    "approximation of its test)."
)


def told(finding: Mapping[str, Any], reading: Mapping[str, Any]) -> str:
    """The verdict of a reading, its reason, and, if it is undecided, how many images would decide it."""
    said = f"{reading['verdict']}: {reading['reason']}"
    if reading["needed"] is None:
        return said
    images = f"about {rounded(reading['needed'])} images would decide it, if the effect stays"
    return f"{said}; {images} ({finding['images']:,} here)"


def rounded(images: int) -> str:
    """An estimated number of images as text, rounded up to two significant digits."""
    most = 1_000_000
    if images > most:
        return f"more than {most:,}"
    unit = 10 ** max(0, len(str(images)) - 2)
    return f"{-(-images // unit) * unit:,}"


def readings(finding: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """The readings in words, each with its numbers: first the claimed reading, then the average and every cell."""
    return [(READINGS[name], finding[name]) for name in dict.fromkeys((finding["holds"], "average", "each"))]
