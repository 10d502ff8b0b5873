"""What a launch prints in each style, what it logs, and what of it stays out of the terminal."""

from __future__ import annotations

import contextlib
import io
import json
import os
import pty
import re
import select
import subprocess
import sys
import termios
from pathlib import Path

import jsonschema
import pytest
import yaml
from rich.console import Console

from study.storage.run_folder import RunFolder
from study.terminal import Display, Style
from study.terminal import display as front
from study.terminal.log import secrets
from tests.conftest import ROOT, TINY

SCHEMA = json.loads((ROOT / "docs" / "events.schema.json").read_text())
TINIER = {
    "images": {"sample": "foolbox", "size": 32, "keep": "all", "count": 4},
    "models": {
        name: {"network": "timm:test_resnet", "weights": f"random:{seed}", "size": 32}
        for seed, name in enumerate("abc")
    },
    "experiments": {"single": {"attacks": ["fg", "mi"], "sources": ["b"]}},
}


def events(printed):
    validator = jsonschema.Draft202012Validator(SCHEMA)
    found = [json.loads(line) for line in printed.splitlines()]
    for one in found:
        validator.validate(one)
    return found


def test_every_line_of_a_run_is_an_event(door, spec_file, tmp_path):
    spec, run = spec_file(TINIER), tmp_path / "run"
    status, printed, error = door("launch", spec, "--output", run, "--json")
    assert (status, error) == (0, "")
    found = events(printed)
    kinds = [one["event"] for one in found]
    assert kinds.count("started") == kinds.count("ended") == 1
    assert kinds.count("begun") == kinds.count("over") == 2
    assert kinds[-1] == "ended"
    units = [one for one in found if one["event"] == "unit"]
    (started,) = [one for one in found if one["event"] == "started"]
    assert len(units) == started["left"] == 3 * 2
    assert sum(one["rows"] for one in units) == 3 * 4 * 3
    assert all(cell["hits"] <= cell["images"] == 2 for one in units for cell in one["success"].values())
    assert found[-1]["status"] == 0


def test_errors_are_events_too(door, spec_file, tmp_path):
    status, printed, error = door("launch", spec_file({"seed": "x"}), "--json")
    assert status == 2
    (one,) = events(printed)
    assert one["event"] == "error"
    assert one["what"] in error
    assert one["where"] in error
    status, printed, _ = door(
        "launch", spec_file(TINIER), "--json", "--output", tmp_path / "r", "--set", "images.count=99"
    )
    assert status == 2
    assert events(printed)[-1]["event"] == "error"


def test_quiet(door, spec_file, tmp_path):
    spec, run = spec_file(TINIER), tmp_path / "run"
    status, printed, error = door("launch", spec, "--output", run, "--quiet")
    assert (status, error) == (0, "")
    assert re.fullmatch(r"complete in \d+ s: .*\n", printed)
    log = (run / "study.log").read_text()
    assert "units to do" in log
    assert "complete in" in log
    status, printed, _ = door("launch", spec, "--output", run, "--quiet")
    assert status == 0
    assert "already complete" in printed
    assert printed.count("\n") == 1
    assert door("launch", spec, "--quiet", "--json")[0] == 2


def test_lines_have_times_and_the_next_command(door, spec_file, tmp_path):
    spec, run = spec_file(TINIER), tmp_path / "run"
    status, printed, _ = door("launch", spec, "--output", run)
    assert status == 0
    said = [line for line in printed.splitlines() if re.match(r"\d\d:\d\d:\d\d ", line)]
    assert any("100 %; single 6/6" in line for line in said)
    assert any(re.search(r"cost: .* image gradients, .* core-hours", line) for line in said)
    assert f"study show {run}" in printed
    assert "complete in" in said[-1]
    assert "\x1b" not in printed
    logged = (run / "study.log").read_text()
    for line in said:
        assert " %; " in line or line[9:] in logged
    assert "100 %; single 6/6" in logged
    status = json.loads((run / "status.json").read_text())
    assert status["ended"]
    assert status["status"] == 0
    assert status["done"] == {"single": 6}


def test_a_terminal_says_itself_how_large_it_is(monkeypatch):
    """Whatever a parent process exported: readline, for one, puts COLUMNS and LINES into the environment for good."""
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("LINES", "50")
    monkeypatch.setenv("TERM", "xterm-256color")
    parent, child = pty.openpty()
    with os.fdopen(parent, "rb"), os.fdopen(child, "w") as stream:
        for size in ((60, 8), (100, 30)):
            termios.tcsetwinsize(child, size[::-1])
            assert front._Apart(Console(), stream).size == size
    with Path(os.devnull).open("w") as stream:
        assert front._Apart(Console(), stream).size == (200, 50)


ONE_AFTER_ANOTHER = """
import os, signal, sys, actors.launch.launch, cli
from actors.backends.in_process import InProcess
import timm, torchvision
actors.launch.launch.RayBackend = lambda *_: InProcess()
print("ready", flush=True)
for line in sys.stdin:
    terminal, spec, folder, *ignored = line.split()
    launched = os.fork()
    if not launched:
        os.setsid()
        here = os.open(terminal, os.O_RDWR)  # the terminal of the new session
        for stream in range(3):
            os.dup2(here, stream)
        os.close(here)
        sys.stdout.reconfigure(line_buffering=True)
        signal.signal(signal.SIGHUP, signal.SIG_IGN if ignored else signal.SIG_DFL)
        sys.argv = ["study", "launch", spec, "--output", folder, "--limit", "4"]
        sys.exit(cli.main())
    print(os.waitstatus_to_exitcode(os.waitpid(launched, 0)[1]), flush=True)
"""
"""`study` with the work in its own process, on the terminals whose names come in: forking saves the seconds that
imports take. Prints the exit status of each."""
SIZES = ((60, 24), (100, 30), (200, 50), (60, 8))


@pytest.fixture(scope="module")
def on_a_terminal():
    """Launches on a pseudo-terminal of a size, until `end`: what was written to it before, and a call for the status.

    `end` is what the terminal closes at; without it, it stays until the launch ends.
    """
    process = subprocess.Popen(
        [sys.executable, "-c", ONE_AFTER_ANOTHER],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT,
        env={**os.environ, "TERM": "xterm-256color", "COLUMNS": "80", "LINES": "24"},
    )  # fmt: skip
    assert process.stdout.readline() == "ready\n"

    def run(spec, folder, size, *, end=None, ignored=False):
        ours, its = pty.openpty()
        termios.tcsetwinsize(its, size[::-1])
        process.stdin.write(f"{os.ttyname(its)} {spec} {folder}{' ignored' if ignored else ''}\n")
        process.stdin.flush()
        written = b""
        # A terminal that nobody has open any more says so by an error.
        with contextlib.suppress(OSError):
            while end is None or end not in written:
                ready, _, _ = select.select([ours], [], [], 100)
                assert ready, written
                written += os.read(ours, 4096)
                if its is not None:
                    os.close(its)
                    its = None
        os.close(ours)
        return written.decode(), int(process.stdout.readline())

    yield run
    process.stdin.close()
    process.wait(60)


@pytest.mark.parametrize("size", SIZES)
def test_a_terminal(on_a_terminal, tmp_path, size):
    """In a pseudo-terminal, rendered: nothing of the live view is left in the end, and no line is cut into two."""
    pyte = pytest.importorskip("pyte")
    columns, rows = size
    screen = pyte.HistoryScreen(columns, rows, history=1000)
    stream = pyte.Stream(screen)
    (tmp_path / "spec.yaml").write_text(yaml.safe_dump(yaml.safe_load(TINY) | TINIER))
    text, status = on_a_terminal(tmp_path / "spec.yaml", tmp_path / "run", size)
    seen = set()
    for first in range(0, len(text), 200):
        stream.feed(text[first : first + 200])
        seen |= {line.split()[0] for line in screen.display if line.strip()}
        assert sum(line.startswith("tiny  ") for line in screen.display) <= 1
    assert status == 1
    left = [line.rstrip() for line in screen.display]
    assert "tiny" in seen
    assert not any(line.startswith("tiny  ") for line in left)
    assert "done as asked in" in " ".join(left)
    assert not screen.cursor.hidden


@pytest.mark.parametrize("ignored", [False, True], ids=["hangup", "nohup"])
def test_a_terminal_that_goes_away(on_a_terminal, tmp_path, ignored):
    """A hangup stops the launch with its word in the log; where it is ignored, writing to no terminal stops nothing."""
    (tmp_path / "spec.yaml").write_text(yaml.safe_dump(yaml.safe_load(TINY) | TINIER))
    run = tmp_path / "r"
    _, status = on_a_terminal(tmp_path / "spec.yaml", run, (100, 24), end=b"clean pass", ignored=ignored)
    written = json.loads((run / "status.json").read_text())
    assert status == written["status"] == (1 if ignored else 129)
    assert written["ended"]
    assert written["error"] is None
    said = "done as asked in" if ignored else "stopped; finished work is kept. Continue with: study launch"
    assert said in (run / "study.log").read_text()


PRINTING = """
import logging, os, sys, warnings
from pathlib import Path
from rich.console import Console
from study.storage.run_folder import RunFolder
from study.terminal import Display
folder = RunFolder(Path(sys.argv[1])); folder.claim()
with Display(Console()) as front:
    front.attach("x", folder, ["MINE"])
    os.write(1, b"from C, out\\n"); os.write(2, b"from C, err\\n")
    print("from Python"); print("from Python, err", file=sys.stderr)
    warnings.warn("a warning"); logging.getLogger("lib").warning("logged with 12345 and a-token")
    front.say("said")
print("after")
os.write(2, b"after, err\\n")
"""


def test_what_libraries_print_is_in_the_log_alone(tmp_path):
    environment = {**os.environ, "MINE": "12345", "OTHER_TOKEN": "a-token"}
    done = subprocess.run(
        [sys.executable, "-c", PRINTING, str(tmp_path / "run")],
        capture_output=True, text=True, cwd=ROOT, env=environment, check=True,
    )  # fmt: skip
    assert [line[9:] for line in done.stdout.splitlines() if line != "after"] == ["said"]
    assert done.stdout.endswith("after\n")
    assert done.stderr == "after, err\n"
    log = (tmp_path / "run" / "study.log").read_text()
    for part in ("from C, out", "from C, err", "out: from Python", "err: from Python, err", "a warning", "study: said"):
        assert part in log
    assert "logged with … and …" in log
    assert "12345" not in log
    assert "a-token" not in log


def test_a_log_that_cannot_be_written_stops_nothing(tmp_path):
    folder = RunFolder(tmp_path / "run")
    folder.claim()
    (tmp_path / "run" / "study.log").mkdir()
    printed = io.StringIO()
    with Display(Console(file=printed, width=200), Style()) as front:
        front.attach("x", folder)
        front.say("goes on")
    folder.release()
    assert "study.log cannot be written" in printed.getvalue()
    assert "goes on" in printed.getvalue()


def test_secrets_are_known_by_name_and_by_look():
    environment = {
        "A": "1",
        "MY_API_KEY": "abcdefgh",
        "AWS_SECRET_ACCESS_KEY": "longest-of-all",
        "HOME": "x",
        "TOKEN": "",
    }
    assert secrets(["A"], environment) == ("longest-of-all", "abcdefgh", "1")
