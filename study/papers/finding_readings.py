"""Writes the readings of a finding as text, for commands and reports.

A finding is a paper's claim with a check. A claim about cells can be read in three ways: as a claim about every cell,
about the average of the cells, or about some cell.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

READINGS = {"each": "every cell", "average": "the average", "some": "some cell"}
"""The readings of a finding, as text."""

EXPLANATION = (
    "The first line of a finding is what the paper claims; it decides the verdict. The other lines are for context. "
    "A claim about the average and a claim about every cell are two questions. Each has its own interval, test and "
    "verdict. Every cell: the numbers are those of the cell that supports the claim least. Each cell is tested at the "
    "level 0.05. To refute the claim, a cell must contradict it after Holm's correction."
)

NEEDED = (
    "Would decide: the estimated number of images with which an undecided verdict would be decided, if the effect and "
    "its spread stay the same (normal approximation of the test)."
)


def told(finding: Mapping[str, Any], reading: Mapping[str, Any]) -> str:
    """Return a text with the verdict of a reading and its reason.

    If the verdict is undecided and the reading has `needed`, the text also says how many images would decide it.
    `finding`: a row of `FINDINGS`.
    """
    said = f"{reading['verdict']}: {reading['reason']}"
    if reading["needed"] is None:
        return said
    images = f"about {rounded(reading['needed'])} images would decide it, if the effect stays"
    return f"{said}; {images} ({finding['images']:,} here)"


def rounded(images: int) -> str:
    """Return an estimated number of images as text, rounded up to two significant digits."""
    most = 1_000_000
    if images > most:
        return f"more than {most:,}"
    unit = 10 ** max(0, len(str(images)) - 2)
    return f"{-(-images // unit) * unit:,}"


def readings(finding: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """Return the readings of a finding: pairs of the reading as text, and its numbers.

    The reading that the finding claims comes first, then the average and every cell. Each reading occurs once.
    """
    return [(READINGS[name], finding[name]) for name in dict.fromkeys((finding["holds"], "average", "each"))]
