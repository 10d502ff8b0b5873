"""The two readings of a finding that commands and reports show: the claimed one, and a second for context."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

READINGS = {"each": "every cell", "average": "the average", "some": "some cell"}
"""The scopes of a claim, in words."""

EXPLANATION = (
    "The first line of a finding is its claim and decides its verdict; the second line is for context. Every cell: "
    "the numbers are those of the cell that supports the claim least; each cell is tested at 0.05 (refuted after "
    "Holm's correction)."
)


def readings(finding: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """Two readings in words, each with its numbers: the claimed one, then the average (every cell, if the claim
    is about the average)."""
    other = "each" if finding["holds"] == "average" else "average"
    return [(READINGS[name], finding[name]) for name in (finding["holds"], other)]
