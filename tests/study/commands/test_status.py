"""`study status`, of folders as launches leave them: finished, cut off, at work here, at work elsewhere, damaged."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import socket
import subprocess
import sys
from datetime import datetime, timedelta

import pytest
import yaml
from rich.console import Console

from study.commands.status import StatusOptions, print_status
from study.errors import StudyError
from tests.conftest import rows
from tests.study.conftest import SMALL

PROBED = f"""
{SMALL.replace("flush_seconds: 0", "flush_seconds: 0, keep_images: true")}
geometry:
  line: {{probe: intervals, along: {{gradient_of: a}}, distances: {{to: 2, by: 1}}, models: [b]}}
  flat: {{probe: intervals, along: {{gradient_of: a}}, distances: {{to: 1, by: 1}}, models: [b], images: 1}}
"""
"""Two units of an attack, each with a part of kept images, and three of probes."""


@pytest.fixture
def run(tiny_run, tmp_path):
    """A copy of the finished tiny study."""
    shutil.copytree(tiny_run, tmp_path / "run")
    return tmp_path / "run"


@pytest.fixture
def dead() -> int:
    """The number of a process that is over."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def printed(run, *, watch=False, sleep=None) -> str:
    out = io.StringIO()
    print_status(run, Console(file=out, width=100), StatusOptions(watch=watch), sleep or (lambda seconds: None))
    return out.getvalue()


def rewrite(run, **changes) -> dict:
    path = run / "status.json"
    said = json.loads(path.read_text()) | changes
    path.write_text(json.dumps(said))
    return said


def halve(run) -> None:
    """Only the first of two parts is left."""
    parts = sorted((run / "results").rglob("*.parquet"))
    for part in parts[len(parts) // 2 :]:
        part.unlink()


def test_a_finished_run(door, run):
    status, out, _ = door("status", run)
    assert status == 0
    assert out.splitlines() == [
        f"{run}: complete, 90 units",
        "  single     72/72 units",
        "  ensembles  18/18 units",
    ]
    status, out, _ = door("status", run, "--json")
    found = json.loads(out)
    assert not found["running"]
    assert found["experiments"]["single"] == {"done": 72, "units": 72}
    assert found["launch"]["status"] == 0


def test_a_killed_run_counts_what_its_rows_say(run, dead):
    halve(run)
    rewrite(run, ended=False, status=None, process=dead, host=socket.gethostname(), seconds=61.0)
    said = printed(run)
    assert "ended unexpectedly after 1:01, 50 % of 90 units done" in said
    assert "launch the study again to continue" in said
    counts = re.findall(r"^  (?:single|ensembles) +(\d+)/(?:72|18) units$", said, re.MULTILINE)
    assert sum(map(int, counts)) == rows(run)["unit"].n_unique() == 45


@pytest.fixture
def probed(finished, tmp_path):
    """A copy of a finished study with probes and kept images."""
    shutil.copytree(finished(PROBED), tmp_path / "probed")
    return tmp_path / "probed"


def test_probes_are_units_too(door, probed):
    assert printed(probed).splitlines() == [
        f"{probed}: complete, 5 units",
        "  all   2/2 units",
        "  line  2/2 units",
        "  flat  1/1 units",
    ]
    shutil.rmtree(probed / "geometry" / "line")
    assert printed(probed).splitlines() == [
        f"{probed}: incomplete, 60 % of 5 units done; launch the study again to continue",
        "  all   2/2 units",
        "  line  0/2 units",
        "  flat  1/1 units",
    ]
    found = json.loads(door("status", probed, "--json")[1])
    assert found["experiments"]["line"] == {"done": 0, "units": 2}


def test_a_unit_without_its_kept_images_is_unfinished(probed):
    part, _ = sorted((probed / "kept").rglob("*.parquet"))
    part.unlink()
    assert f"{probed}: incomplete, 80 % of 5 units done" in printed(probed)


def break_spec(run):
    spec = yaml.safe_load((run / "spec.yaml").read_text())
    spec["geometry"]["flat"]["images"] = ["nope"]
    (run / "spec.yaml").write_text(yaml.safe_dump(spec, sort_keys=False))
    return "probes are not counted: the image 'nope' is not selected"


def break_probe(run):
    part = next((run / "geometry" / "line").glob("*.parquet"))
    part.write_bytes(b"PAR1")
    return "probes are not counted: a part is damaged: it cannot be read: "


def break_kept(run):
    part = next((run / "kept").glob("*.parquet"))
    part.write_bytes(b"PAR1")
    return f"kept images are not counted: the kept images in {part.name} are damaged: "


@pytest.mark.parametrize("damage", [break_spec, break_probe, break_kept])
def test_what_cannot_be_counted_is_told_and_the_rest_is_counted(door, probed, damage):
    problem = damage(probed)
    rewrite(probed, ended=True, status=2, error="the disk is full")
    status, out, _ = door("status", probed)
    assert status == 0
    probes = ["  line  2/2 units", "  flat  1/1 units"] if damage is break_kept else []
    units = 5 if probes else 2
    experiment = "  all   2/2 units" if probes else "  all  2/2 units"
    lines = out.splitlines()
    (told,) = [line for line in lines if line.startswith(f"  {problem}")]
    assert lines == [
        f"{probed}: not fully counted, 100 % of {units} units done; check it: study verify {probed}",
        experiment,
        *probes,
        told,
        "  the last launch failed:",
        "    the disk is full",
    ]
    found = json.loads(door("status", probed, "--json")[1])
    assert found["experiments"]["all"] == {"done": 2, "units": 2}
    assert found["not_counted"] == [told.strip()]
    assert door("verify", probed)[0] == 1


def test_a_run_at_work_here(run):
    rewrite(
        run,
        ended=False,
        process=os.getpid(),
        host=socket.gethostname(),
        phase="crafting",
        done={"single": 3},
        totals={"single": 12},
        seconds_left=90.0,
        failures=2,
        last_failure="image 3: not a number",
    )
    said = printed(run)
    assert f"running (process {os.getpid()} on {socket.gethostname()}), 25 % of 12 units done" in said
    assert "about 1:30 left" in said
    assert "2 failures" in said
    assert "last failure: image 3: not a number" in said


@pytest.mark.parametrize(("seconds", "running"), [(5, True), (3600, False)])
def test_elsewhere_it_is_the_last_word_that_counts(run, seconds, running):
    written = (datetime.now().astimezone() - timedelta(seconds=seconds)).isoformat(timespec="seconds")
    rewrite(run, ended=False, host="another-host.example", process=1, written=written, phase="crafting")
    assert ("running (process 1 on another-host.example)" in printed(run)) is running


def test_watching_ends_with_the_launch(run):
    rewrite(run, ended=False, process=os.getpid(), host=socket.gethostname(), phase="starting")
    waits = []

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 3:
            rewrite(run, ended=True, status=0)

    said = printed(run, watch=True, sleep=sleep)
    assert len(waits) == 3
    assert said.count("running (") == 3
    assert "complete" in said.splitlines()[-3]


def test_an_error_is_said_again(run):
    rewrite(run, ended=True, status=2, error="the disk is full\n  to do: make room")
    assert "the last launch failed:\n    the disk is full\n      to do: make room" in printed(run)


def test_no_run_and_a_damaged_file(door, run, tmp_path):
    (tmp_path / "empty").mkdir()
    status, _, error = door("status", tmp_path / "empty")
    assert status == 2
    assert "is not a run folder" in error
    (run / "status.json").write_text("{")
    with pytest.raises(StudyError, match=r"status\.json is damaged"):
        printed(run)
