"""Text that a terminal shows and does not obey: the one rule for what a message may contain."""

from __future__ import annotations

import unicodedata

_COMMANDS = ("Cc", "Cs", "Zl", "Zp")
"""Unicode categories of control characters, lone surrogates and separators of lines and paragraphs."""

_TURNING = frozenset("\u200e\u200f\u061c\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\ufeff")
"""Marks that change the direction of the text around them, and the byte order mark."""

_KEPT = "\t\n"


def commands(mark: str) -> bool:
    """Whether a character tells a terminal, or a reader's eye, to do something instead of standing for itself."""
    return mark in _TURNING or (mark not in _KEPT and unicodedata.category(mark) in _COMMANDS)


def visible(text: str) -> str:
    """`text` with every such character written out (`\\x1b`, `\\u202e`); tabs and line breaks stay."""
    if text.isprintable():
        return text
    return "".join(_written(mark) if commands(mark) else mark for mark in text)


def _written(mark: str) -> str:
    code = ord(mark)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
