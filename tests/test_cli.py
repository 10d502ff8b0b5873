"""The command line: version, groups, examples in every help, and the list of commands in docs/commands.md."""

from __future__ import annotations

import re

import pytest
import typer

import cli
from study import __version__
from tests.conftest import ROOT

COMMANDS = typer.main.get_command(cli.app).commands
LISTED = [name for name, command in COMMANDS.items() if not command.hidden]
GROUPS = (cli.RUN, cli.LOOK, cli.COMPARE, cli.MODELS, cli.IMAGES, cli.DEVELOP)


@pytest.mark.parametrize("words", [("--version",), ("version",)], ids=" ".join)
def test_version(door, words):
    assert door(*words) == (0, f"{__version__}\n", "")


def test_help_lists_every_command_in_a_group(door, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    status, printed, _ = door("--help")
    assert status == 0
    assert re.findall(r"─ ([\w ]+) ─", printed) == ["Options", *GROUPS]
    assert re.findall(r"^│ ([a-z]+) ", printed, re.M) == LISTED


@pytest.mark.parametrize("name", LISTED)
def test_help_has_an_example_that_names_the_command(name):
    command = COMMANDS[name]
    assert f"Example: study {name}" in command.help
    assert all(parameter.help for parameter in command.params if parameter.name != "help")


def test_the_page_on_commands_lists_every_command():
    text = (ROOT / "docs" / "commands.md").read_text()
    assert list(dict.fromkeys(re.findall(r"^  study ([a-z]+) ", text, re.M))) == LISTED
    assert all(group in text for group in GROUPS)
