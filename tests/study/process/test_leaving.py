"""A command's process ends with its status, at once, and with all that it printed."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.conftest import ROOT

CODE = """
import atexit, sys, threading, time
from study.process.leaving import leave
atexit.register(lambda: print("registered"))
threading.Thread(target=time.sleep, args=(300,)).start()
def main():
    sys.stdout.write("not flushed ")
    {end}
leave(main)
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
def test_the_status_and_all_that_was_printed(end, status, error):
    """A thread that goes on for minutes is not waited for; what was registered for the end is carried out."""
    words = [sys.executable, "-c", CODE.format(end=end)]
    done = subprocess.run(words, capture_output=True, text=True, cwd=ROOT, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (status, "not flushed registered\n", error)


def test_output_that_nobody_reads():
    words = [sys.executable, "-c", "from study.process.leaving import leave; leave(lambda: print('x' * 10))"]
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT, env=buffered)
    process.stdout.close()
    assert process.wait(60) == 120
    assert process.stderr.read() == b""
    process.stderr.close()
