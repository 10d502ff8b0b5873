"""`study launch --inline`: a whole study in this process, for debuggers: what stops it, and what it leaves behind."""

from __future__ import annotations

import gc
import json
import os
import signal
import sys
import threading
import time
import weakref
from pathlib import Path

import numpy as np
import pexpect
import pytest
import yaml

import study
from actors.backends.in_process import InProcess, this_machine
from tests.conftest import TINY, rows
from tests.services import FakeService, by_brightness
from tests.study.conftest import SMALL

CODE = """
import os

import torch
from torch import nn


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.linspace(-1, 1, 1000))

    def forward(self, images):
        if images.requires_grad:
            during_an_attack(images)
        return images.mean((1, 2, 3))[:, None] * self.weight


def make():
    return Network()


def during_an_attack(images):
"""


@pytest.fixture(autouse=True)
def _apart(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("WANDB_MODE", raising=False)


@pytest.fixture
def mine(tmp_path):
    """Writes a network of the user's own with this body of `during_an_attack`; a spec of two units that attack it."""

    def write(body: str) -> dict:
        (tmp_path / "mine.py").write_text(CODE + "".join(f"    {line}\n" for line in body.splitlines()))
        spec = yaml.safe_load(SMALL)
        own = {"network": "python:mine.py:make", "size": 32, "mean": [0.5] * 3, "std": [0.5] * 3}
        spec["models"] = {"mine": own, "b": spec["models"]["b"]}
        spec["experiments"] = {"all": {"attacks": ["fgsm"], "sources": {"each": ["b", "mine"]}}}
        (tmp_path / "spec.yaml").write_text(yaml.safe_dump(spec))
        return spec

    return write


def test_the_rows_are_those_of_any_launch(door, tiny_run, spec_file, tmp_path):
    """On more workers than there are, and with a limit: another launch goes on, either way round."""
    changes = {"run": {"shard": 2, "actors": 64, "flush_seconds": 0}}
    spec, run = spec_file(changes), tmp_path / "run"
    status, printed, error = door("launch", spec, "--output", run, "--inline", "--limit", 20)
    assert (status, error) == (1, ""), printed
    assert "tiny: this process" in printed
    assert "1 worker on cpu (1 core each" in printed
    assert f"study launch {spec} --output {run} --inline" in printed
    status, printed, error = door("launch", spec_file(), "--output", run, "--limit", 40)
    assert (status, error) == (1, ""), printed
    status, printed, error = door("launch", spec, "--output", run, "--inline")
    assert (status, error) == (0, ""), printed
    assert "repaired" not in printed
    assert rows(run).equals(rows(tiny_run))


def test_help_and_an_address(door, spec_file, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    assert "--inline" in door("launch", "--help")[1]
    status, _, error = door("launch", spec_file(), "--inline", "--address", "head:6379")
    assert status == 2
    assert "--inline and --address exclude each other" in error


def test_an_error_leaves_as_it_was_raised(mine):
    spec = mine("raise LookupError('nowhere')")
    with pytest.raises(LookupError, match="nowhere") as caught:
        study.launch(spec, output="run", inline=True, quiet=True, allow_code=True)
    frames = [entry.name for entry in caught.traceback]
    assert frames[-2:] == ["forward", "during_an_attack"]
    assert "craft" in frames
    log = Path("run/study.log").read_text()
    assert "in during_an_attack" in log
    assert "ended by LookupError: nowhere" in log
    assert json.loads(Path("run/status.json").read_text())["ended"] is True
    assert study.launch(mine("pass"), output="other", inline=True, quiet=True, allow_code=True).rows.height == 2 * 2 * 2


def test_the_command_line_prints_one_message(door, mine):
    mine("raise LookupError('nowhere')")
    status, printed, error = door("launch", "spec.yaml", "--output", "run", "--inline", "--allow-code", "--quiet")
    assert status == 1
    assert error.startswith("error: LookupError: nowhere\n")
    assert "mine.py, line" in error
    assert "in during_an_attack" in error
    assert "Traceback" not in printed + error
    assert len(error.splitlines()) <= 4


@pytest.mark.slow
def test_a_debugger_stops_in_an_attack(mine):
    """pdb on a real terminal: a question and its answer, and on to the end."""
    mine("if os.environ.pop('FIRST', ''):\n    here = 6 * 7\n    breakpoint()")
    words = ["launch", "spec.yaml", "--output", "run", "--inline", "--allow-code"]
    program = [sys.executable, ["-c", f"import sys; sys.argv = ['study', *{words}]; import cli; cli.main()"]]
    child = pexpect.spawn(*program, env=os.environ | {"FIRST": "yes"}, encoding="utf-8", timeout=120)
    child.expect_exact("(Pdb) ")
    child.sendline("print('the answer is', here)")
    child.expect_exact("the answer is 42")
    child.expect_exact("(Pdb) ")
    child.sendline("print(images.shape, images.is_meta, __import__('threading').current_thread().name)")
    child.expect_exact("torch.Size([4, 3, 32, 32]) False MainThread")
    child.expect_exact("(Pdb) ")
    child.sendline("c")
    child.expect(r"complete in \d+ s: run")
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 0


def test_a_signal_ends_a_running_call_at_once(mine):
    """The attack sleeps for a minute in the process that gets the signal; what was finished stays."""
    spec = mine("__import__('time').sleep(60)")
    thread = threading.Thread(target=_send_when_an_attack_runs)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        study.launch(spec, output="run", inline=True, quiet=True, allow_code=True)
    thread.join()
    assert time.monotonic() - SENT[0] < 20
    assert study.load("run").rows["attack"].n_unique() <= 1
    assert "ended with status 130" in Path("run/study.log").read_text()


SENT: list[float] = []


def _send_when_an_attack_runs():
    """A signal once the main thread sleeps in the user's code."""
    main = threading.main_thread().ident
    until = time.monotonic() + 120
    while time.monotonic() < until:
        frame = sys._current_frames()[main]
        if frame.f_code.co_name == "during_an_attack":
            SENT.append(time.monotonic())
            os.kill(os.getpid(), signal.SIGINT)
            return
        time.sleep(0.05)


def test_services_and_probes(tmp_path):
    """What else a study can have: answered in this process, once."""
    with FakeService(by_brightness) as fake:
        keys = yaml.safe_load(TINY)
        names = {str(index): f"label {index}" for index in range(1000)} | {"0": "dark", "1": "bright"}
        spec = keys | {
            "images": {"sample": "foolbox", "size": 48, "keep": "all", "count": 3},
            "models": {"c": keys["models"]["c"], "s": {"remote": {"url": fake.url, "names": names, "rate": 5000}}},
            "attacks": {"mi": {"steps": 2}},
            "experiments": {"one": {"attacks": ["mi"], "sources": ["c"]}},
            "geometry": {"cosine": {"probe": "gradient-cosine", "models": ["c"], "images": 2}},
        }
        run = study.launch(spec, output="run", inline=True, quiet=True)
        assert run.rows.filter(target="s").height == 3
        assert set(fake.answered.values()) == {1}
    assert list((tmp_path / "run" / "geometry" / "cosine").glob("*.parquet"))


def test_finished_images_are_freed():
    """All batches of a study take more memory than there is: a reference holds its pixels, and nothing else does."""

    class Worker:
        def craft(self, pixels):
            return "done", pixels + 1

    backend = InProcess()
    call = backend.call(Worker(), "craft", (), backend.put(np.zeros((2, 3), np.uint8)))
    assert backend.wait([call.value], 0) == [call.value]
    assert backend.value(call.value) == "done"
    pixels = backend.pixels(call.pixels)
    assert pixels.tolist() == [[1, 1, 1], [1, 1, 1]]
    kept = weakref.ref(pixels)
    del pixels
    gc.collect()
    assert kept() is not None
    del call
    gc.collect()
    assert kept() is None


def test_this_machine():
    found = this_machine()
    assert found.cpus == os.cpu_count()
    assert 2**26 < found.memory < 2**45
