"""Phrases with which chat models refuse to answer."""

from __future__ import annotations

REFUSALS = (
    "i'm sorry",
    "i am sorry",
    "i can't",
    "i cannot",
    "i can not",
    "i'm unable",
    "i am unable",
    "i'm not able",
    "i am not able",
    "i won't",
    "as an ai",
)
"""An answer that contains one of these phrases, and names no label, is a refusal."""
