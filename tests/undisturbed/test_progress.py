"""What a launch on real Ray tells while it starts, and during one long unit: the step of its attack."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import yaml
from rich.console import Console

from study.commands.status import StatusOptions, print_status
from tests.undisturbed.undisturbed import Launched, assert_undisturbed

STEPS = 2000
LONG = {
    "study": "long",
    "images": {"sample": "foolbox", "size": 48, "keep": "all", "count": 2},
    "models": {"b": {"network": "torchvision:squeezenet1_1", "weights": "random:1", "size": 48}},
    "attacks": {"mi": {"steps": STEPS}},
    "experiments": {"one": {"attacks": ["mi"], "sources": ["b"]}},
    "numerics": {"batch": 2, "threads": 1},
    "run": {"shard": 2, "actors": 1},
}
"""One unit of two images and many steps."""


def test_the_start_and_the_steps_of_a_unit_are_told(tmp_path):
    spec, run = tmp_path / "long.yaml", tmp_path / "run"
    spec.write_text(yaml.safe_dump(LONG))
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("WANDB_", "RAY_", "PY"))}
    words = [str(Path(sys.executable).parent / "study"), "launch", str(spec), "--output", str(run), "--json"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True, cwd=tmp_path, env=environment) as process:
        assert process.stdout is not None
        first = process.stdout.readline()
        said = io.StringIO()
        print_status(str(run), Console(file=said, width=100), StatusOptions())
        lines = [first, *process.stdout]
    assert f"running (process {process.pid} on " in said.getvalue(), "before any image is selected"
    events = [json.loads(line) for line in lines]
    texts = [event["text"] for event in events if event["event"] == "said"]
    order = [texts.index(text) for text in ("checking models and images", "starting Ray", "starting 1 worker")]
    assert order == sorted(order)
    assert order[0] == 0
    told = [slot for event in events if event["event"] == "state" for slot in event["slots"] if slot["activity"]]
    steps = [
        tuple(map(int, found.groups()))
        for slot in told
        if (found := re.fullmatch(r"step ([\d]+) of ([\d]+)", slot["activity"].replace(",", "")))
    ]
    assert steps, told
    assert steps == sorted(steps)
    assert {whole for _, whole in steps} == {STEPS}
    assert "mi on b" in {slot["doing"] for slot in told}
    assert_undisturbed(Launched(process.returncode, "", 0.0), run)
