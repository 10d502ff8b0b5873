"""Control characters in names are shown and never obeyed, wherever a message is printed."""

from __future__ import annotations

import io

import pytest
from rich.table import Table

from study.safe_text import visible
from study.terminal import prose
from study.terminal.console import Console
from study.terminal.log import Log

HOSTILE = "a\x1b[31mred\x1b]0;owned\x07\x9b2J\u202eb"
SHOWN = r"a\x1b[31mred\x1b]0;owned\x07\x9b2J\u202eb"


@pytest.mark.parametrize(("text", "shown"), [
    (HOSTILE, SHOWN),
    ("tab\tand\nline", "tab\tand\nline"),
    ("Gr\u00fc\u00dfe \u65e5\u672c \u2713 \U0001f426", "Gr\u00fc\u00dfe \u65e5\u672c \u2713 \U0001f426"),
    ("a\rb\u2028c\udc80", r"a\x0db\u2028c\udc80"),
])  # fmt: skip
def test_written_out(text, shown):
    assert visible(text) == shown
    assert visible(shown) == shown


@pytest.mark.parametrize("terminal", [False, True])
def test_a_console_keeps_its_own_colours_and_no_others(terminal):
    file = io.StringIO()
    console = Console(file=file, width=80, force_terminal=terminal, color_system="standard" if terminal else None)
    prose.say(console, HOSTILE)
    table = Table("name", box=None)
    table.add_row(HOSTILE, style="green")
    console.print(table)
    printed = file.getvalue()
    assert printed.count(SHOWN) == 2
    assert "\x1b[31m" not in printed
    assert "\x07" not in printed
    assert ("\x1b[32m" in printed) == terminal


def test_a_log(tmp_path):
    log = Log(tmp_path / "study.log", (), pytest.fail)
    log.write(f"set aside: {HOSTILE}\nand on")
    log.close()
    first, second = (tmp_path / "study.log").read_text().splitlines()
    assert first.endswith(f"set aside: {SHOWN}")
    assert second.endswith("study: and on")


def test_an_error_at_the_door(door, tmp_path, spec_file):
    """A list names a file that is not there, in colour."""
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "list.csv").write_text("file,label\n\x1b[31mx.png,3\n")
    images = {"folder": str(tmp_path / "images"), "list": str(tmp_path / "images" / "list.csv"), "size": 48}
    status, _, error = door("validate", spec_file({"images": images | {"keep": "all"}}))
    assert status == 2
    assert r"\x1b[31mx.png does not exist" in error
    assert "\x1b" not in error
