"""Lines for people, on terminals that are too narrow for them."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from study.terminal.prose import fitted, say

LONG = "untargeted: % of adversarial images that the target model no longer gives their true label"


@pytest.mark.parametrize("width", [20, 33, 60, 89])
@pytest.mark.parametrize("indent", ["", "  "])
def test_words_stay_whole_and_none_is_lost(width, indent):
    shown = fitted(indent + LONG, width)
    assert len(shown) > 1
    assert all(len(line) <= width and line.startswith(indent) for line in shown)
    assert " ".join(line.strip() for line in shown) == LONG


def test_what_fits_is_left_as_it_is():
    assert fitted("  two  words ", 13) == ["  two  words "]
    assert fitted("", 13) == [""]


@pytest.mark.parametrize(
    "line",
    [
        "again:    study show a-run-that-has-a-long-name",
        "done as asked in 8 s; 120 units are left: /somewhere/else",
        "python:   study.load('x').rows",
    ],
)
def test_what_may_be_copied_is_never_broken(line):
    assert fitted(line, 20) == [line]


def test_a_word_that_is_too_long_is_left_to_the_terminal():
    assert fitted("a " + 30 * "b", 20) == ["a", 30 * "b"]


def test_a_file_gets_lines_whole():
    for terminal, lines in ((True, 3), (False, 1)):
        printed = io.StringIO()
        say(Console(file=printed, width=40, force_terminal=terminal), LONG)
        assert printed.getvalue().count("\n") == lines
        assert "[bold]" not in printed.getvalue()
