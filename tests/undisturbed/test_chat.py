"""A chat service as a target on real Ray: nothing is repaired, and after a kill nothing answered is asked again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import yaml

from study.results.verify import verify
from tests.conftest import rows
from tests.services import FakeChat
from tests.undisturbed.undisturbed import assert_undisturbed, launch

SPEC = {
    "study": "chat",
    "seed": 7,
    "images": {"sample": "foolbox", "size": 48, "keep": "all", "count": 6},
    "models": {"c": {"network": "timm:test_resnet", "weights": "random:2", "size": 56}},
    "attacks": {"mi": {"steps": 3, "checkpoints": [1, 2]}},
    "experiments": {"single": {"attacks": ["mi"], "sources": "each"}},
    "numerics": {"batch": 2, "threads": 1},
    "run": {"shard": 2, "actors": 1, "flush_seconds": 0},
}
WORDS = ("tench", "goldfish", "great white shark")


def say(pixels):
    total = int(pixels.sum())
    return None if total % 7 == 0 else f"Oh, I love these: {WORDS[total % 3]}s! Let me tell you more about them."


def test_a_whole_run_and_a_killed_one(tmp_path):
    here = {"NO_PROXY": "127.0.0.1", "CHAT_KEY": "tops3cret-0123456789"}
    with FakeChat(say=say, delay=0.1) as fake:
        remote = {"url": fake.url, "api": "chat", "model": "big", "prompt": "Name it.", "rate": 1000.0, "queries": 2}
        remote |= {"credentials": {"env": "CHAT_KEY"}, "most": 200}
        spec = tmp_path / "spec.yaml"
        spec.write_text(yaml.safe_dump(SPEC | {"models": SPEC["models"] | {"chat": {"remote": remote}}}))
        done = launch(spec, "--output", tmp_path / "whole", here=tmp_path, **here)
        assert_undisturbed(done, tmp_path / "whole")
        assert {request.headers["Authorization"] for request in fake.requests} == {f"Bearer {here['CHAT_KEY']}"}
        assert here["CHAT_KEY"] not in done.printed
        images = len(fake.answered)
        assert set(fake.answered.values()) == {1}
        assert len(fake.requests) == images

        fake.answered.clear()
        enough = threading.Event()
        fake.say = lambda pixels: (enough.set() if len(fake.answered) >= 8 else None, say(pixels))[1]
        words = [str(Path(sys.executable).parent / "study"), "launch", str(spec), "--output", str(tmp_path / "killed")]
        killed = subprocess.Popen(words, cwd=tmp_path, env=os.environ | here, stdout=subprocess.PIPE)
        assert enough.wait(300), "the service was asked"
        os.kill(killed.pid, signal.SIGKILL)
        killed.communicate(timeout=60)
        again = launch(spec, "--output", tmp_path / "killed", here=tmp_path, **here)
        assert again.status == 0, again.printed
        # Answers that were under way when the process died may be lost: at most `parallel`.
        assert sum(times - 1 for times in fake.answered.values()) <= 4
        assert len(fake.answered) == images
        assert verify(tmp_path / "killed").whole
    for run in ("whole", "killed"):
        found = rows(tmp_path / run, without=("unit",)).filter(target="chat")
        assert set(found["queries"]) == {1, 2} or found["queries"].max() == 1
        assert found["refused"].any() or 0 < len(set(found["sentence"])) <= 3
    assert rows(tmp_path / "killed", without=("unit",)).equals(rows(tmp_path / "whole", without=("unit",)))
