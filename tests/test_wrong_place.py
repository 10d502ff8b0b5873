"""A spec where a run is wanted, a run where a spec is wanted, commands of other tools: each has a clear message."""

from __future__ import annotations

import shutil

import pytest

from study.commands.other_commands import OURS
from study.storage.run_folder import RunFolder
from tests.test_cli import LISTED

READS_A_RUN = {
    "status": (), "show": (), "table": ("--experiment", "single"), "report": (), "geometry": (), "dashboard": (),
    "compare": (), "findings": (), "images": ("--to", "out"), "verify": (), "compact": (),
}  # fmt: skip
READS_A_SPEC = {"validate": (), "plan": (), "launch": (), "models": (), "fetch": (), "profile": ()}


@pytest.fixture
def place(tmp_path, monkeypatch, tiny_run):
    """A working folder with a spec, its run in `runs`, and a spec that was never launched."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    shutil.copytree(tiny_run, tmp_path / "runs" / "tiny")
    (tmp_path / "tiny.yaml").write_text('study: "tiny"\n')
    (tmp_path / "other.yml").write_text("# no study yet\n")
    return tmp_path


@pytest.mark.usefixtures("place")
@pytest.mark.parametrize("command", READS_A_RUN)
@pytest.mark.parametrize(("given", "expected"), [
    ("tiny.yaml", ["tiny.yaml is a spec; this command needs a run folder", "write runs/tiny"]),
    ("other.yml", ["other.yml is a spec", "launch it first: `study launch other.yml` makes runs/other"]),
    ("tiny", ["tiny is no", "accepted: runs/tiny", "write runs/tiny"]),
    ("runs", ["runs is no", "but holds run folders", "accepted: runs/tiny"]),
    ("gone.yaml", ["gone.yaml does not exist", "accepted: runs/tiny"]),
    ("nowhere", ["nowhere is no", "accepted: runs/tiny"]),
])  # fmt: skip
def test_what_is_no_run(door, command, given, expected):
    status, printed, error = door(command, given, *READS_A_RUN[command])
    assert (status, printed) == (2, "")
    for part in expected:
        assert part in error.replace("is not a run folder", "is no").replace("is not the run folder", "is no")


@pytest.mark.usefixtures("place")
@pytest.mark.parametrize("command", READS_A_SPEC)
def test_what_is_no_spec(door, command):
    status, printed, error = door(command, "runs/tiny", *READS_A_SPEC[command])
    assert (status, printed) == (2, "")
    assert "runs/tiny is a run folder; this command needs a spec" in error
    assert "runs/tiny/spec.yaml" in error
    status, _, error = door(command, ".", *READS_A_SPEC[command])
    assert status == 2
    assert ". is a folder; this command needs a spec" in error
    assert "other.yml" in error


@pytest.mark.usefixtures("place")
def test_a_file_where_a_launch_writes(door):
    status, _, error = door("launch", "tiny.yaml", "--output", "other.yml")
    assert status == 2
    assert "other.yml is a spec; this command needs a run folder" in error or "tiny.yaml" in error


def test_a_launch_without_images_yet(door, tmp_path):
    folder = RunFolder(tmp_path / "run")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "status.json").write_text("{}")
    status, _, error = door("show", folder.path)
    assert status == 2
    assert "its launch has not selected images yet" in error
    assert f"study status {folder.path}" in error


@pytest.mark.parametrize(("given", "expected"), [
    ("run", "write `study launch SPEC`"),
    ("RESUME", "write `study launch SPEC`"),
    ("latex", "write `study table RUN`"),
    ("lunch", "launch (the nearest)"),
    ("xyzzy", "`study --help` lists all commands"),
])  # fmt: skip
def test_unknown_commands(door, given, expected):
    status, printed, error = door(given, "mine.yaml")
    assert (status, printed) == (2, "")
    assert error.startswith(f"error: there is no command '{given}'")
    assert expected in error


def test_every_answer_is_a_command():
    for theirs, ours in OURS.items():
        assert ours.split()[:1] == ["study"]
        assert ours.split()[1] in LISTED
        assert theirs not in LISTED
