"""Values that must not change unseen, and a finished run of an earlier day that every command still reads."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import polars as pl
import pytest

from study.results import scanning
from tests.conftest import ROOT
from tests.golden.made import HERE, RUN, RUN_FORMAT1, make
from tests.golden.values import defaults, ids, models, pixels

VALUES = json.loads((HERE / "values.json").read_text())
MEANING = (
    "a golden value changed. Ids and digests: finished studies are crafted again, and their rows belong to no plan. "
    "Pixels: the same spec gives other rows. If that is meant, write them anew with `python -m tests.golden > "
    "tests/golden/values.json`, and say in README.md and docs/ what changed"
)


@pytest.mark.parametrize("kind", ["crafts", "units", "probes"])
def test_ids(kind):
    assert ids()[kind] == VALUES["ids"][kind], MEANING


@pytest.mark.parametrize("kind", ["crafts", "units", "probes"])
def test_ids_of_format_1_stay(kind):
    """Old folders are planned as they were, so that commands find their rows."""
    assert ids(1)[kind] == VALUES["ids of format 1"][kind]


def test_defaults_change_with_a_version_only():
    """An id leaves out what is at its default: another default is another version of its component."""
    assert defaults() == VALUES["defaults"], (
        "a default changed: the same id would mean other pixels. Increase `version` of the component, and write the "
        "golden values anew; a new parameter whose default changes nothing is added to them"
    )


def test_models():
    assert models() == VALUES["models"], MEANING


def test_pixels():
    found = pixels()
    if found["on"] != VALUES["pixels"]["on"]:
        pytest.skip(f"the golden pixels are of {VALUES['pixels']['on']}, and this is {found['on']}")
    assert found == VALUES["pixels"], MEANING


def copied(run: Path, folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    make(folder)
    shutil.copytree(run, folder / "run")
    return folder / "run"


@pytest.fixture
def golden(tmp_path, monkeypatch) -> Path:
    """A copy of the run, beside the files that its spec names; the working folder is the one that holds both."""
    monkeypatch.chdir(tmp_path)
    return copied(RUN, tmp_path)


def rows(run: Path) -> pl.DataFrame:
    return scanning.scan(run).collect().sort("unit", "target", "steps", "budget", "image")


READ = {
    "show": (("show", "run"), "goals, targeted"),
    "markdown": (("table", "run", "--experiment", "single", "--format", "markdown"), "| optimization"),
    "latex": (("table", "run", "--experiment", "goals", "--format", "latex"), r"\begin{tabular}"),
    "csv": (("table", "run", "--experiment", "together", "--format", "csv"), "deep+flat"),
    "report": (("report", "run"), "run/report.html"),
    "compare": (("compare", "run"), "Liu et al. 2017"),
    "findings": (("findings", "run"), "momentum-transfers"),
    "geometry": (("geometry", "run"), "cosines"),
    "status": (("status", "run"), "complete"),
    "verify": (("verify", "run"), "complete and undamaged"),
    "images": (("images", "run", "--to", "out", "--attack", "mi"), "out"),
    "compact": (("compact", "run"), "2 parts"),
    "plan": (("plan", "spec.yaml"), "attack runs"),
    "models": (("models", "spec.yaml"), "95874556"),
    "launch": (("launch", "spec.yaml", "--output", "run"), "complete"),
}


@pytest.mark.parametrize("command", READ)
def test_commands_read_a_run_of_an_earlier_day(golden, door, command):
    """None changes a row of it; `launch` finds its ids and digests again, and has nothing to do."""
    words, said = READ[command]
    before = rows(golden)
    status, printed, error = door(*words)
    assert status == 0, error or printed
    assert said in printed + error
    assert rows(golden).equals(before)
    if command not in {"compact", "launch"}:
        assert {path.name for path in (golden / "results").iterdir()} == {
            path.name for path in (RUN / "results").iterdir()
        }


@pytest.mark.parametrize("command", ["show", "latex", "report", "compare", "findings", "geometry", "verify", "images"])
def test_commands_read_a_run_of_format_1(tmp_path, monkeypatch, door, command):
    monkeypatch.chdir(tmp_path)
    run = copied(RUN_FORMAT1, tmp_path)
    before = rows(run)
    words, said = READ[command]
    status, printed, error = door(*words)
    assert status == 0, error or printed
    assert said in printed + error
    assert rows(run).equals(before)


def test_formats_hold_the_same_rows(tmp_path):
    """What both say of every image and target is equal, but for the ids."""
    old, new = (rows(copied(run, tmp_path / run.name)) for run in (RUN_FORMAT1, RUN))
    keys = ["attack", "sources", "goal", "seed", "target", "steps", "budget", "image"]
    same = [*keys, "top5", "rmsd", "linf"]
    assert old.sort(keys).select(same).equals(new.sort(keys).select(same))


def test_a_run_of_format_1_is_not_continued(tmp_path, monkeypatch, door):
    monkeypatch.chdir(tmp_path)
    run = copied(RUN_FORMAT1, tmp_path)
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    status, _, error = door("launch", "spec.yaml", "--output", "run")
    assert status == 2
    assert "has format 1" in error
    assert "launch into a new folder with --output" in error
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file() and path in before} == before


def test_a_new_target_joins_a_run_of_an_earlier_day(golden, door):
    """Old models are what they were, also behind a new transformation, and kept images are shown to it."""
    text = (golden.parent / "spec.yaml").read_text()
    text = text.replace("{jpeg: 75}}\n", "{jpeg: 75}}\n  coarse: {model: deep, transform: {bits: 3}}\n")
    (golden.parent / "spec.yaml").write_text(text)
    before = rows(golden)
    status, printed, error = door("launch", "spec.yaml", "--output", "run", "--only", "goals")
    assert status == 1, error
    assert "shown to targets from kept images" in printed
    after = rows(golden)
    assert after.filter(pl.col("target") != "coarse").equals(before)
    assert after.height > before.height


def test_the_run_names_no_machine():
    for path in RUN.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert not any(word in content for word in (str(ROOT).encode(), b"/tmp/", b"/home/", b"/root/")), path
