"""Damaged runs: refused before a write, named by every command, and repaired by following the advice."""

from __future__ import annotations

import io
import json
import re
import shutil
from hashlib import sha256

import polars as pl
import pytest
import yaml
from rich.console import Console

from actors.backends.in_process import InProcess
from actors.launch.launch import launch
from actors.launch.options import LaunchOptions
from study.errors import StudyError
from study.planning import resume
from study.results import integrity, kept_images, scanning
from study.results.verify import verify
from study.storage import part_file
from study.storage.run_folder import RunFolder
from tests.conftest import rows

SMALL = """
study: damaged
seed: 3
images: {sample: foolbox, size: 32, keep: all, count: 4}
models:
  a: {network: "timm:test_resnet", weights: "random:1", size: 32}
  b: {network: "timm:test_resnet", weights: "random:2", size: 32}
experiments: {one: {attacks: [fgsm], sources: {each: [a]}, goal: [untargeted, targeted]}}
numerics: {batch: 1, threads: 1}
run: {shard: 1, actors: 1, flush_seconds: 0, keep_images: true}
"""
C = {"network": "timm:test_resnet", "weights": "random:3", "size": 32}


@pytest.fixture(scope="module")
def launched(tmp_path_factory):
    """Launches the small study, with one more target if `target`; returns the exit status and the output."""
    folder = tmp_path_factory.mktemp("specs")

    def run(into, *, target=False, limit=None):
        spec = yaml.safe_load(SMALL)
        if target:
            spec["models"]["c"] = C
        path = folder / ("grown.yaml" if target else "spec.yaml")
        path.write_text(yaml.safe_dump(spec))
        printed = io.StringIO()
        order = LaunchOptions(path, into, limit=limit)
        return launch(order, Console(file=printed, width=200), InProcess), printed.getvalue()

    return run


@pytest.fixture(scope="module")
def undisturbed(launched, tmp_path_factory):
    """Undamaged runs of the study, without and with the additional target."""
    folder = tmp_path_factory.mktemp("undisturbed")
    assert launched(folder / "run")[0] == 0
    shutil.copytree(folder / "run", folder / "grown")
    assert launched(folder / "grown", target=True)[0] == 0
    return folder


@pytest.fixture
def run(undisturbed, tmp_path):
    return shutil.copytree(undisturbed / "run", tmp_path / "run")


def content(run):
    """Every file of a run except logs and status."""
    return {
        str(path.relative_to(run)): path.read_bytes()
        for path in sorted(run.rglob("*"))
        if path.is_file() and path.name not in {"study.log", "status.json", "lease"}
    }


def reverse_labels(run):
    """Reverse the clean predictions of the first image, in a valid file."""
    path = run / "images.parquet"
    frame = pl.read_parquet(path)
    data = frame.to_dicts()
    data[0]["clean"][0]["top5"].reverse()
    pl.DataFrame(data, schema=frame.schema).write_parquet(path)


def other_model(run):
    path = run / "models.json"
    models = json.loads(path.read_text())
    models["b"]["digest"] = "0" * len(models["b"]["digest"])
    path.write_text(json.dumps(models, indent=2) + "\n")


def other_spec(run):
    path = run / "spec.yaml"
    path.write_text(path.read_text() + "\n")


def sign(run, *names):
    """Record the digest of the file as it is now."""
    path = run / "digests.json"
    known = json.loads(path.read_text())
    known.update({name: sha256((run / name).read_bytes()).hexdigest() for name in names})
    path.write_text(json.dumps(known))


@pytest.mark.parametrize(
    ("damage", "file"),
    [(reverse_labels, "images.parquet"), (other_model, "models.json"), (other_spec, "spec.yaml")],
)
@pytest.mark.parametrize("target", [False, True], ids=["the same", "grown"])
def test_what_was_recorded_is_compared_before_anything_is_written(launched, run, damage, file, target):
    damage(run)
    before = content(run)
    with pytest.raises(StudyError, match=f"{file} has changed since the launch") as refused:
        launched(run, target=target)
    assert str(run / file) in str(refused.value.where)
    assert "restore it from a copy" in str(refused.value.todo)
    assert content(run) == before
    assert any(f"{file} does not match its recorded digest" in one.what for one in verify(run).findings)


@pytest.mark.parametrize("command", ["report", "compare", "images", "table"])
def test_readers_compare_too(door, run, tmp_path, command):
    reverse_labels(run)
    more = {"images": ["--to", tmp_path / "out"], "table": ["--experiment", "one"]}.get(command, [])
    status, _, error = door(command, run, *more)
    assert status == 2
    assert "images.parquet has changed since the launch" in error
    assert "Traceback" not in error


def test_rows_are_held_against_what_was_selected(run):
    """The recorded digest matches the damaged file."""
    reverse_labels(run)
    sign(run, "images.parquet")
    found = [one for one in verify(run).findings if one.kind == "damaged"]
    assert [one.what for one in found] == ["2 rows have a clean prediction that differs from images.parquet"]
    assert "restore images.parquet" in found[0].todo


def test_digests_that_are_gone_are_told(launched, run):
    (run / "digests.json").unlink()
    status, printed = launched(run)
    assert status == 0
    assert "digests.json is missing" in printed
    assert verify(run).whole


def test_digests_of_another_shape(launched, run):
    (run / "digests.json").write_text('{"images.parquet": 3}')
    with pytest.raises(StudyError, match=r"digests\.json is damaged"):
        launched(run)
    assert any("digests.json is damaged" in one.what for one in verify(run).findings)


def zeroed(run):
    """Rewrite the first part of kept images under its old name, with all differences 0."""
    part = sorted((run / "kept").iterdir())[0]
    table = pl.read_parquet(part)
    nothing = table.with_columns(delta=pl.Series([bytes(len(one)) for one in table["delta"]], dtype=pl.Binary))
    part.write_bytes(kept_images.encode_images(nothing.to_arrow().cast(kept_images.SCHEMA)))
    return part


def follow(run, finding):
    """Follow the advice exactly: move the part out of kept/, and the named parts out of results/."""
    away = run.parent / "away"
    away.mkdir(exist_ok=True)
    shutil.move(finding.where, away)
    for name in re.findall(r"part-v\d[^ ,;]*\.parquet", finding.todo):
        shutil.move(run / "results" / name, away)


def test_kept_images_are_compared_before_they_are_shown(launched, run, undisturbed):
    zeroed(run)
    before = content(run)["kept/" + sorted((run / "kept").iterdir())[0].name]
    with pytest.raises(StudyError, match=r"the kept images in .* are damaged: its content does not") as no:
        launched(run, target=True)
    assert "study verify" in str(no.value.todo)
    assert content(run)["kept/" + sorted((run / "kept").iterdir())[0].name] == before
    (finding,) = [one for one in verify(run).findings if one.kind == "damaged"]
    follow(run, finding)
    assert launched(run, target=True)[0] == 0
    assert verify(run).whole
    assert rows(run).equals(rows(undisturbed / "grown"))


def test_rows_from_damaged_images_are_named_and_repaired(launched, run, undisturbed, monkeypatch):
    zeroed(run)
    monkeypatch.setattr(part_file, "damage", lambda part: None)  # older launches did not check kept images
    assert launched(run, target=True)[0] == 0
    monkeypatch.undo()
    assert not rows(run).equals(rows(undisturbed / "grown"))
    (finding,) = [one for one in verify(run).findings if one.kind == "damaged"]
    assert "the rows of its" in finding.what
    follow(run, finding)
    assert launched(run, target=True)[0] == 0
    assert verify(run).whole
    assert rows(run).equals(rows(undisturbed / "grown"))


def test_the_report_shows_no_image_of_a_damaged_part(door, run, tmp_path):
    part = zeroed(run)
    status, _, error = door("report", run, "--to", tmp_path / "report.html")
    assert status == 1
    assert part.name in error


def cut(part):
    part.write_bytes(part.read_bytes()[:4000])


def cut_short(part):
    part.write_bytes(part.read_bytes()[:-100])


def emptied(part):
    part.write_bytes(b"")


@pytest.mark.parametrize("damage", [cut, cut_short, emptied])
def test_a_damaged_part_is_named_by_every_command(door, launched, run, tmp_path, damage):
    part = sorted((run / "results").iterdir())[1]
    damage(part)
    for command in (
        ["show"], ["table", "--experiment", "one"], ["report", "--to", tmp_path / "r.html"], ["status"],
        ["compact"],
    ):  # fmt: skip
        status, _, error = door(command[0], run, *command[1:])
        assert status == 2, command
        assert part.name in error, command
        assert "move the part out of results/ and launch the study again" in error, command
        assert "Traceback" not in error
    before = content(run)
    with pytest.raises(StudyError, match="a part is damaged: it cannot be read") as refused:
        launched(run)
    assert str(part) in str(refused.value.where)
    assert content(run) == before


def test_a_changed_bit_is_found_by_launch_and_compact(launched, door, run):
    part = sorted((run / "results").iterdir())[0]
    changed = bytearray(part.read_bytes())
    changed[len(changed) // 3] ^= 1
    part.write_bytes(changed)
    with pytest.raises(StudyError, match="a part is damaged"):
        launched(run)
    status, _, error = door("compact", run)
    assert status == 2
    assert part.name in error


def test_stray_files_are_left_alone_and_told(door, launched, run, undisturbed):
    part = sorted((run / "results").iterdir())[0]
    for name in ("._x.parquet", "part (1).parquet", ".DS_Store", ".nfs0000000000000001", f"{part.name} (1)"):
        shutil.copy(part, run / "results" / name)
    (run / "results" / f"._{part.name}").write_bytes(b"\0\5\26\7")
    shutil.copy(part, run / "kept" / "._y.parquet")
    told = "results/: 6 files are not parts of this run, and are ignored: .DS_Store, ._"
    status, printed = launched(run)
    assert status == 0
    assert printed.count(told) == 1
    assert "already complete" in printed
    for command in (["show"], ["table", "--experiment", "one"], ["status"]):
        assert door(command[0], run, *command[1:])[0] == 0
    assert "6 files are not parts of this run" in door("status", run)[1]
    status, printed, _ = door("verify", run)
    assert status == 0
    assert printed.count("6 files are not parts of this run") == 1
    assert scanning.scan(run).collect().height == rows(undisturbed / "run").height


def test_verify_before_images_are_selected(door, tmp_path):
    (tmp_path / "run" / "results").mkdir(parents=True)
    status, printed, _ = door("verify", tmp_path / "run")
    assert status == 1
    assert "has not selected images yet" in printed
    assert "damaged" not in printed
    assert "launch the study" in printed


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("failures.json", "{"), ("failures.json", "[]"), ("failures.json", '{"failures": [{"unit": 3}]}'),
        ("status.json", "["), ("status.json", "{}"), ("status.json", '{"ended": "yes"}'),
        ("models.json", "[1]"), ("models.json", '{"a": 3}'), ("digests.json", "[]"), ("planned.json", "3"),
    ],
)  # fmt: skip
def test_json_of_ours_that_is_broken_is_one_message(door, run, tmp_path, file, text):
    (run / file).write_text(text)
    if file == "models.json":
        sign(run, "models.json")
    command = "report" if file == "planned.json" else "status"
    status, _, error = door(command, run, *(["--to", tmp_path / "r.html"] if command == "report" else []))
    assert status == 2
    assert f"{file} is damaged" in error
    assert "to do:" in error
    assert "Traceback" not in error


def test_one_reader_for_what_was_recorded(run):
    folder = RunFolder(run)
    assert resume.not_as_written(folder) == []
    assert integrity.damaged(folder, "results", "kept", "geometry") == []
