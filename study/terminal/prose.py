"""A line for people: broken between words where a terminal is too narrow, unless somebody may want to copy it."""

from __future__ import annotations

import re
import textwrap

from rich.cells import cell_len
from rich.console import Console

from study.safe_text import visible

_COPIED = re.compile(r"\bstudy [a-z]+ \S|\S/\S|\bpl\.")
"""Commands, paths and code: a terminal that breaks such a line itself still copies it as one."""


def say(console: Console, line: str) -> None:
    """Print `line` as it is, without markup. Into a file it is never broken."""
    exactly(console, "\n".join(fitted(line, console.width)) if console.is_terminal else line)


def exactly(console: Console, text: str, end: str = "\n") -> None:
    """Print `text` character for character: for programs, and for what is copied."""
    console.print(visible(text), markup=False, highlight=False, soft_wrap=True, end=end)


def fitted(line: str, width: int) -> list[str]:
    """The lines that a line of text is shown as in `width` cells; what follows the first is indented as that is."""
    if cell_len(line) <= width or _COPIED.search(line):
        return [line]
    indent = line[: len(line) - len(line.lstrip())]
    return textwrap.wrap(line, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)
