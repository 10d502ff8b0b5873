"""Kept images as files: read back, they are what the attack made, for us and for others."""

from __future__ import annotations

import csv

import numpy as np
import polars as pl
import pytest
import yaml
from PIL import Image

from study.commands.images import file_names
from study.errors import StudyError
from tests.conftest import rows, run_here

MODEL = {"network": "timm:test_resnet", "weights": "random:1", "size": 32}
SPEC = {
    "study": "kept",
    "images": {"size": 32, "keep": "all", "fit": "exact"},
    "models": {"a": MODEL, "b": MODEL | {"weights": "random:2"}},
    "attacks": {"mi": {"steps": 3, "checkpoints": [1]}},
    "experiments": {"x": {"attacks": ["mi", "fgsm"], "sources": {"each": ["a"]}, "goal": ["untargeted", "targeted"]}},
    "numerics": {"batch": 1, "threads": 1},
    "run": {"shard": 2, "actors": 1, "flush_seconds": 0, "keep_images": True},
}
NAMES = ["n01440764/x.png", "n01443537/x.JPEG", "deep/er/z.bmp"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("kept")
    for index, name in enumerate(NAMES):
        noise = np.random.default_rng(index).integers(0, 256, (32, 32, 3), dtype=np.uint8)
        (folder / "clean" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noise).save(folder / "clean" / name)
    (folder / "list.csv").write_text("".join(f"{name},{10 * index}\n" for index, name in enumerate(NAMES)))
    spec = SPEC | {"images": SPEC["images"] | {"folder": str(folder / "clean"), "list": str(folder / "list.csv")}}
    (folder / "spec.yaml").write_text(yaml.safe_dump(spec))
    status, printed = run_here(folder / "spec.yaml", folder / "run")
    assert status == 0, printed
    return folder / "run"


def pixels_of(path):
    return np.asarray(Image.open(path).convert("RGB")).astype(int)


def test_files_are_what_was_kept_and_scored(run, door, tmp_path):
    status, printed, error = door(
        "images", run, "--attack", "mi", "--goal", "targeted", "--steps", "3", "--to", tmp_path / "out"
    )
    assert status == 0, error
    assert "3 images of a.mi.targeted" in printed.replace("\n", "")
    with (tmp_path / "out" / "labels.csv").open() as opened:
        listed = list(csv.DictReader(opened))
    assert {one["filename"] for one in listed} == {"n01440764/x.png", "n01443537/x.png", "deep/er/z.png"}
    found = rows(run).filter(attack="mi", goal="targeted", target="b", steps=3)
    wanted = {(one["label"], one["target_label"], round(one["rmsd"], 9)) for one in found.to_dicts()}
    clean = {name.rpartition(".")[0]: run.parent / "clean" / name for name in NAMES}
    read = set()
    for one in listed:
        delta = pixels_of(tmp_path / "out" / one["filename"]) - pixels_of(clean[one["filename"].rpartition(".")[0]])
        rmsd = np.sqrt((delta**2).mean())
        read.add((int(one["label"]), int(one["targeted_label"]), round(float(rmsd), 9)))
    assert read == wanted


def test_made_of_our_own_folder_gives_the_same_rows(run, door, spec_file, tmp_path):
    assert door("images", run, "--goal", "untargeted", "--to", tmp_path / "out")[0] == 0
    folders = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert folders == ["a.fgsm.untargeted.s0", "a.mi.untargeted.s0.1", "a.mi.untargeted.s0.3"]
    spec = yaml.safe_load((run.parent / "spec.yaml").read_text())
    spec["attacks"] = {"theirs": {"made": str(tmp_path / "out" / "{sources}.fgsm.{goal}.s{seed}")}}
    spec["experiments"] = {"x": {"attacks": ["theirs"], "sources": {"each": ["a"]}}}
    status, printed = run_here(spec_file(yaml.safe_dump(spec)), tmp_path / "theirs")
    assert status == 0, printed
    same = ["image", "target", "label", "top5", "top5_prob", "rmsd", "linf", "l2"]
    ours = rows(run).filter(attack="fgsm", goal="untargeted").select(same)
    assert rows(tmp_path / "theirs").select(same).equals(ours)


def test_what_is_written_is_an_image_set(run, door, tmp_path):
    from study.images.labels import label_set
    from study.images.lists import read_list

    out = tmp_path / "out"
    assert door("images", run, "--craft", "a.fgsm.untargeted.*", "--to", out)[0] == 0
    listed = read_list(out, out / "labels.csv", label_set("imagenet"), targets=None)
    assert sorted(one.label for one in listed) == [0, 10, 20]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--attack", "pgd"), "no attack run (craft) of this study matches the options"),
        (("--steps", "2"), "no images have these steps and this budget"),
    ],
)
def test_what_is_not_there(run, door, tmp_path, words, said):
    status, _, error = door("images", run, *words, "--to", tmp_path / "out")
    assert status == 2
    assert said in error
    assert not (tmp_path / "out").exists()


def test_a_folder_with_something_in_it_is_left_alone(run, door, tmp_path):
    (tmp_path / "mine.txt").write_text("x")
    status, _, error = door("images", run, "--to", tmp_path)
    assert status == 2
    assert "not empty" in error
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_a_run_that_keeps_nothing_says_how_to(tiny_run, door, tmp_path):
    status, _, error = door("images", tiny_run, "--to", tmp_path / "out")
    assert status == 1
    assert "--set run.keep_images=true" in error


@pytest.mark.parametrize(
    "name", ["../x.png", "a/../../x.png", "/etc/x.png", "a\\..\\x", "C:x", "..", "a/..", "x\0.png"]
)
def test_no_name_leads_out(name):
    with pytest.raises(StudyError, match="leads out of the folder"):
        file_names([name])


def test_two_images_of_one_name(tmp_path):
    with pytest.raises(StudyError, match=r"a/x.png and a/x.bmp have the same file a/x.png"):
        file_names(["a/x.png", "a/x.bmp"])


def test_kept_images_can_be_read_with_polars_alone(run):
    kept = pl.scan_parquet(run / "kept" / "*.parquet").collect()
    one = kept.row(0, named=True)
    clean = pixels_of(run.parent / "clean" / one["image"]).astype(np.uint8).transpose(2, 0, 1)
    adversarial = clean + np.frombuffer(one["delta"], np.uint8).reshape(3, 32, 32)
    moved = adversarial.astype(int) - clean
    assert np.isclose(np.sqrt((moved**2).mean()), one["rmsd"])
    assert np.abs(moved).max() == one["linf"]
