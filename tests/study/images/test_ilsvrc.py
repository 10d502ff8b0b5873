"""ILSVRC's validation images and the three forms of their ground truth."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from PIL import Image

from study.errors import StudyError
from study.images.ilsvrc import read_truth
from study.images.labels import label_set

IDS = label_set("imagenet").labels
# The kit's order is none that a model has: here, the reverse.
KIT = {number: IDS[1000 - number] for number in range(1, 1001)}
LABELS = [65, 970, 0, 999]


def validation(folder, count=4):
    folder.mkdir()
    for number in range(1, count + 1):
        Image.new("RGB", (4, 4)).save(folder / f"ILSVRC2012_val_{number:08d}.JPEG")
    return folder


def meta(path):
    """A meta.mat of the development kit's form, whose later entries are inner nodes of WordNet."""
    io = pytest.importorskip("scipy.io")
    path.parent.mkdir(parents=True, exist_ok=True)
    kinds = [("ILSVRC2012_ID", "O"), ("WNID", "O"), ("words", "O"), ("num_children", "O")]
    synsets = np.zeros((1003, 1), dtype=kinds)
    for number in range(1, 1004):
        synsets[number - 1, 0] = (number, KIT.get(number, f"n{number:08d}"), "words", 0)
    io.savemat(path, {"synsets": synsets})


def kit_lines():
    number_of = {wordnet_id: number for number, wordnet_id in KIT.items()}
    return [str(number_of[IDS[label]]) for label in LABELS]


def caffe_lines():
    lines = [f"ILSVRC2012_val_{number:08d}.JPEG {label}" for number, label in enumerate(LABELS, 1)]
    return lines[::-1]


FORMS = {
    "development kit": kit_lines,
    "WordNet ids": lambda: [IDS[label] for label in LABELS],
    "Caffe": caffe_lines,
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("place", ["meta.mat", "data/meta.mat"])
def test_forms(tmp_path, form, place):
    meta(tmp_path / place)
    folder = validation(tmp_path / "val")
    (tmp_path / "truth.txt").write_text("\n".join(FORMS[form]()) + "\n")
    found = read_truth(folder, tmp_path / "truth.txt", label_set("imagenet"))
    assert {one.image: one.label for one in found} == {
        f"ILSVRC2012_val_{number:08d}.JPEG": label for number, label in enumerate(LABELS, 1)
    }
    assert all(one.target is None and one.file.path == folder / one.image for one in found)


def test_all_lines_label_a_part_of_the_images(tmp_path):
    folder = validation(tmp_path / "val")
    (tmp_path / "truth.txt").write_text("".join(f"{IDS[line % 1000]}\n" for line in range(50_000)))
    found = read_truth(folder, tmp_path / "truth.txt", label_set("imagenet"))
    assert [one.label for one in found] == [0, 1, 2, 3]


def test_labels_in_an_order_of_ones_own(tmp_path):
    folder = validation(tmp_path / "val", 2)
    (tmp_path / "truth.txt").write_text("n02123045\nn01440764\n")
    found = read_truth(folder, tmp_path / "truth.txt", label_set(["n01440764", "n02123045"]))
    assert [one.label for one in found] == [1, 0]


def test_the_kits_numbers_need_its_order(tmp_path):
    folder = validation(tmp_path / "val")
    (tmp_path / "truth.txt").write_text("\n".join(kit_lines()))
    with pytest.raises(StudyError, match=r"need the meta\.mat") as raised:
        read_truth(folder, tmp_path / "truth.txt", label_set("imagenet"))
    assert "that no model uses" in str(raised.value)
    (tmp_path / "meta.mat").write_bytes(b"MATLAB 5.0 MAT-file" * 20)
    pytest.importorskip("scipy.io")
    with pytest.raises(StudyError, match=r"meta\.mat cannot be read"):
        read_truth(folder, tmp_path / "truth.txt", label_set("imagenet"))


def test_without_scipy(tmp_path, monkeypatch):
    folder = validation(tmp_path / "val")
    (tmp_path / "truth.txt").write_text("\n".join(kit_lines()))
    (tmp_path / "meta.mat").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "scipy.io", None)
    with pytest.raises(StudyError, match="scipy, which reads it, is not installed") as raised:
        read_truth(folder, tmp_path / "truth.txt", label_set("imagenet"))
    assert "pip install scipy" in str(raised.value)


BAD = {
    "too few lines": (
        ["n01440764"] * 3,
        ["labels of 3 images (no label for ILSVRC2012_val_00000004.JPEG)", "has 4"],
    ),
    "too many lines": (["n01440764"] * 5, ["labels of 5 images", "has 4 images"]),
    "no lines": ([], ["labels of 0 images"]),
    "numbers from 0": (["0", "1", "2", "3"], ["'0' is not a class number of the development kit", "line 1"]),
    "unknown id": (["n01440764", "n00000000"], ["'n00000000' is not a label of ImageNet", "line 2"]),
    "blank line": (["n01440764", "", "n01440764"], ["'' is not the label of an image", "line 2"]),
    "words": (["a b c"], ["'a b c' is not the label of an image"]),
    "Caffe without numbers": (["cat.JPEG 3"], ["'cat.JPEG' does not end in _ and eight digits"]),
    "Caffe twice": (["x_00000001.JPEG 3"] * 2, ["'x_00000001.JPEG' has a number that is listed twice", "line 2"]),
    "Caffe beyond": (["x_00000001.JPEG 1000"], ["'1000' is not a label"]),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_truths(tmp_path, case):
    lines, expected = BAD[case]
    meta(tmp_path / "meta.mat")
    folder = validation(tmp_path / "val")
    (tmp_path / "truth.txt").write_text("\n".join(lines) + "\n")
    with pytest.raises(StudyError) as raised:
        read_truth(folder, tmp_path / "truth.txt", label_set("imagenet"))
    for part in expected:
        assert part in str(raised.value)


def test_bad_folders(tmp_path):
    folder = validation(tmp_path / "val")
    (tmp_path / "truth.txt").write_text("n01440764\n" * 4)

    def refused(text):
        with pytest.raises(StudyError, match=text):
            read_truth(folder, tmp_path / "truth.txt", label_set("imagenet"))

    Image.new("RGB", (4, 4)).save(folder / "ILSVRC2012_val_00000004.png")
    refused("have the same number")
    (folder / "ILSVRC2012_val_00000004.png").rename(folder / "cat.png")
    refused(r"cat\.png does not end in _ and eight digits")
    for path in folder.iterdir():
        path.unlink()
    refused("has 0 images")
    (folder / "n01440764").mkdir()
    refused("has folders, such as n01440764, but no images")
    folder = tmp_path / "none"
    refused("does not exist")
    folder = validation(tmp_path / "other")
    (tmp_path / "truth.txt").unlink()
    refused("cannot be read: No such file")
