"""A command ends its process at once, with its exit status and all its output, whatever its reader does."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.conftest import ROOT

CODE = """
import atexit, sys, threading, time
from study.process.command import run_command
atexit.register(lambda: print("registered"))
threading.Thread(target=time.sleep, args=(300,)).start()
def main():
    sys.stdout.write("not flushed ")
    {end}
run_command(main)
"""


@pytest.mark.parametrize(
    ("end", "status", "error"),
    [
        ("pass", 0, ""),
        ("sys.exit(143)", 143, ""),
        ("sys.exit()", 0, ""),
        ("sys.exit('a reason')", 1, "a reason\n"),
    ],
)
def test_status_and_output(end, status, error):
    """Exit handlers run; a thread that sleeps for minutes is not waited for."""
    words = [sys.executable, "-c", CODE.format(end=end)]
    done = subprocess.run(words, capture_output=True, text=True, cwd=ROOT, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (status, "not flushed registered\n", error)


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("status", [0, 1])
def test_reader_that_leaves_early(status, unbuffered):
    code = (
        "import sys; from study.process.command import run_command;"
        f"run_command(lambda: ([print('x' * 99) for _ in range(2000)], sys.exit({status})))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=ROOT,
        env=os.environ | {"PYTHONUNBUFFERED": unbuffered},
    )
    process.stdout.read(1)
    process.stdout.close()
    assert process.wait(60) == status
    assert process.stderr.read() == b""
    process.stderr.close()


@pytest.mark.parametrize("words", [("--help",), ("attacks",), ("schema",)], ids=" ".join)
def test_commands_with_a_reader_that_leaves_early(words):
    process = subprocess.Popen(
        [sys.executable, "-m", "cli", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT
    )
    process.stdout.close()
    assert process.wait(60) == 0
    assert process.stderr.read() == b""
    process.stderr.close()
