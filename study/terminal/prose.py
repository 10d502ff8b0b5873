"""Prints lines of text. On a terminal, lines are wrapped between words, except lines with commands, paths or code."""

from __future__ import annotations

import re
import textwrap

from rich.cells import cell_len
from rich.console import Console

from study.safe_text import visible

_COPIED = re.compile(r"\bstudy [a-z]+ \S|\S/\S|\b(?:pl|study)\.[a-z]")
"""Matches lines with commands, paths or code. These lines are not wrapped, so that users can copy them as one line."""


def say(console: Console, line: str) -> None:
    """Print `line` without markup. On a terminal, the line is wrapped between words; in a file, it is never wrapped."""
    exactly(console, "\n".join(fitted(line, console.width)) if console.is_terminal else line)


def exactly(console: Console, text: str, end: str = "\n") -> None:
    """Print `text` without wrapping and markup, for programs and for copying. Only control characters are escaped."""
    console.print(visible(text), markup=False, highlight=False, soft_wrap=True, end=end)


def fitted(line: str, width: int) -> list[str]:
    """Return `line` wrapped between words to `width` columns of the terminal, as a list of lines.

    All lines have the indentation of the first line. A line with a command, a path or code is not wrapped.
    """
    if cell_len(line) <= width or _COPIED.search(line):
        return [line]
    indent = line[: len(line) - len(line.lstrip())]
    return textwrap.wrap(line, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)
