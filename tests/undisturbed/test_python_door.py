"""A script that launches from Python, once on real Ray and once in its own process: the same rows, and no repair."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import yaml

from tests.undisturbed.test_undisturbed import SMALL
from tests.undisturbed.undisturbed import Launched, assert_undisturbed

SCRIPT = """
import sys, threading
import torch  # its import asks ldconfig for a library
import study

started = []
sys.addaudithook(lambda event, arguments: started.append(event) if event in {
    "subprocess.Popen", "os.fork", "os.forkpty", "os.exec", "os.posix_spawn", "os.system"} else None)
inline = study.launch("small.yaml", output="inline", inline=True)
assert "ray" not in sys.modules, "Ray was imported"
assert started == [], started
assert threading.active_count() == 1, threading.enumerate()
on_ray = study.launch("small.yaml", output="on-ray")
assert started, "Ray runs in processes"
assert on_ray.rows.height == inline.rows.height == 2 * 2 * 6
assert on_ray.rows.equals(inline.rows)
assert on_ray.spec == inline.spec
print("equal")
"""


def test_ray_and_this_process_give_the_same_rows(tmp_path):
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(SMALL))
    others = ("WANDB_", "RAY_", "PYTHON", "PYTEST_")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(others)}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        cwd=tmp_path, env=environment, timeout=600, check=False,
    )  # fmt: skip
    assert done.stdout.splitlines()[-1] == "equal", done.stdout
    assert "local Ray" in done.stdout
    assert "this process" in done.stdout
    for run in ("inline", "on-ray"):
        assert_undisturbed(Launched(done.returncode, done.stdout, time.time()), tmp_path / run)
