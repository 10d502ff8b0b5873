"""Prints lines of text. A narrow terminal gets lines wrapped between words, except lines with commands, paths, code."""

from __future__ import annotations

import re
import textwrap

from rich.cells import cell_len
from rich.console import Console

from study.safe_text import visible

_COPIED = re.compile(r"\bstudy [a-z]+ \S|\S/\S|\b(?:pl|study)\.[a-z]")
"""Matches commands, paths and code. The terminal wraps such a line itself, so it can be copied as one line."""


def say(console: Console, line: str) -> None:
    """Print `line` without markup. On a terminal, the line is wrapped between words; in a file, it is never wrapped."""
    exactly(console, "\n".join(fitted(line, console.width)) if console.is_terminal else line)


def exactly(console: Console, text: str, end: str = "\n") -> None:
    """Print `text` exactly, for programs and for copying."""
    console.print(visible(text), markup=False, highlight=False, soft_wrap=True, end=end)


def fitted(line: str, width: int) -> list[str]:
    """Wrap a line to `width` cells; all lines have the indent of the first. A line to copy is not wrapped."""
    if cell_len(line) <= width or _COPIED.search(line):
        return [line]
    indent = line[: len(line) - len(line.lstrip())]
    return textwrap.wrap(line, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)
