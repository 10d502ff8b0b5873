"""Makes text safe for a terminal: replaces control characters with visible escapes."""

from __future__ import annotations

import unicodedata

_CONTROL = ("Cc", "Cs", "Zl", "Zp")
"""Unicode categories of characters to escape: controls, lone surrogates, line and paragraph separators."""

_DIRECTION = frozenset("\u200e\u200f\u061c\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\ufeff")
"""Characters that change the direction of the text around them, and the byte order mark."""

_KEPT = "\t\n"


def is_control(character: str) -> bool:
    """Return whether a character controls the terminal or the direction of text. Tabs and line breaks do not count."""
    return character in _DIRECTION or (character not in _KEPT and unicodedata.category(character) in _CONTROL)


def visible(text: str) -> str:
    """Return `text` with each control character as an escape (`\\x1b`, `\\u202e`). Tabs and line breaks stay."""
    if text.isprintable():
        return text
    return "".join(_escaped(one) if is_control(one) else one for one in text)


def _escaped(character: str) -> str:
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
