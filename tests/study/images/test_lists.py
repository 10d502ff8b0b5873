"""Image lists: every dialect, and what cannot be understood."""

from __future__ import annotations

import pytest
from PIL import Image

from study.errors import StudyError
from study.images.labels import label_set
from study.images.lists import read_list

NIPS = "ImageId,URL,x1,y1,x2,y2,TrueLabel,TargetClass,Author\n"

DIALECTS = {
    "ours, without a heading": ("one.png,281\ntwo.JPEG,3\n", {"one.png": (281, None), "two.JPEG": (3, None)}),
    "ours, with targets": ("one.png,281,7\ntwo.JPEG,3,4\n", {"one.png": (281, 7), "two.JPEG": (3, 4)}),
    "ours, with a heading": (
        "file,label,target\none.png,n02123045,7\ntwo.JPEG,3,n01440764\n",
        {"one.png": (281, 7), "two.JPEG": (3, 0)},
    ),
    "columns in another order": ("label,why,file\n281,for fun,one.png\n", {"one.png": (281, None)}),
    "TransferAttack": (
        "filename,label,targeted_label\none.png,281,7\ntwo.JPEG,0,4\n",
        {"one.png": (281, 7), "two.JPEG": (0, 4)},
    ),
    "NIPS 2017, which counts from 1": (
        NIPS + 'one,"https://x, y",0,0,1,1,282,8,me\n',
        {"one.png": (281, 7)},
    ),
    "NIPS 2017, whose files have other suffixes": (NIPS + "two,u,0,0,1,1,1,1000,me\n", {"two.JPEG": (0, 999)}),
    "Kaggle": (
        "ImageId,PredictionString\ntwo,n02123045 10 20 30 40 n02123045 1 2 3 4 \n",
        {"two.JPEG": (281, None)},
    ),
    "a byte order mark, blank lines and spaces": ("\ufefffile,label\n\none.png , 281\n\n", {"one.png": (281, None)}),
    "no suffixes": ("one,281\ninner/three,3\n", {"one.png": (281, None), "inner/three.PNG": (3, None)}),
    "a suffix in other case": (
        "two.jpeg,281\ninner/three.png,3\n",
        {"two.JPEG": (281, None), "inner/three.PNG": (3, None)},
    ),
    "names with dots": ("four.v1,5\n", {"four.v1.png": (5, None)}),
}


@pytest.fixture
def folder(tmp_path):
    for name in ("one.png", "two.JPEG", "inner/three.PNG", "four.v1.png", "five.png", "five.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (4, 4)).save(tmp_path / name)
    return tmp_path


def read(folder, text, targets=None, labels="imagenet"):
    (folder / "list.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
    found = read_list(folder, folder / "list.csv", label_set(labels), targets=targets)
    assert all((folder / one.image).samefile(one.file.path) for one in found)
    return {one.image: (one.label, one.target) for one in found}


@pytest.mark.parametrize("case", DIALECTS)
def test_dialects(folder, case):
    text, wanted = DIALECTS[case]
    assert read(folder, text) == wanted


def test_targets_that_are_not_wanted(folder):
    assert read(folder, "one.png,281,7\ntwo.JPEG,3\n", targets=False) == {"one.png": (281, None), "two.JPEG": (3, None)}
    assert read(folder, NIPS + "one,u,0,0,1,1,282,8,me\n", targets=False) == {"one.png": (281, None)}


def test_names_of_other_labels(folder):
    assert read(folder, "one.png,cat,ship\ntwo.JPEG,0,9\n", labels="cifar10") == {"one.png": (3, 8), "two.JPEG": (0, 9)}


def test_the_targets_of_liu_et_al(shared, tmp_path):
    """The list is used as it is published, with files of those names."""
    lines = (shared / "data" / "liu2017-image-label-target.csv").read_text().split()
    for line in lines:
        (tmp_path / line.split(",")[0]).touch()
    found = read_list(tmp_path, shared / "data" / "liu2017-image-label-target.csv", label_set("imagenet"), targets=True)
    assert [f"{one.image},{one.label},{one.target}" for one in found] == lines
    assert len(found) == 100


BAD = {
    "image that is not there": ("one.png,3\ngone.png,4\n", None, ["gone.png does not exist", "list.csv, line 2"]),
    "another suffix": ("one.JPEG,3\n", None, ["one.JPEG does not exist", "one.png exists, with another suffix"]),
    "two files of that name": ("five,3\n", None, ["'five' matches several files: five.jpg, five.png"]),
    "label that is no number": ("one.png,cat\n", None, ["'cat' is not a label of ImageNet", "line 1", "0 to 999"]),
    "label that counts from 1": ("file,label\none.png,1000\n", None, ["'1000' is not a label", "line 2", "subtract 1"]),
    "negative label": ("one.png,-1\n", None, ["'-1' is not a label"]),
    "NIPS 2017 from 0": (NIPS + "one,u,0,0,1,1,0,8,me\n", None, ["'0' is not a label", "NIPS 2017", "from 1", "add 1"]),
    "NIPS 2017 beyond": (NIPS + "one,u,0,0,1,1,1001,8,me\n", None, ["'1001' is not a label", "1 to 1000"]),
    "boxes of two labels": (
        "ImageId,PredictionString\ntwo,n02123045 1 2 3 4 n01440764 1 2 3 4\n",
        None,
        ["does not give one label"],
    ),
    "image listed twice": ("one.png,3\none.png,4\n", None, ["'one.png' is listed twice", "line 2, and line 1"]),
    "image listed by two names": ("one.png,3\none,4\n", None, ["'one.png' is listed twice"]),
    "another separator": ("one.png;3\n", None, ["does not name an image and its label", "file,label"]),
    "four columns without a heading": (
        "one.png,3,4,5\n",
        None,
        ["'one.png,3,4,5' does not name an image"],
    ),
    "no label": ("one.png,\n", None, ["'one.png,' does not name an image and its label"]),
    "no file": ("file,label\n,3\n", None, ["',3' does not name an image and its label"]),
    "empty": ("file,label\n", None, ["names no image"]),
    "binary": (b"\xff\xfe\x00\x01", None, ["list.csv cannot be read"]),
    "target is the label": ("one.png,5,5\n", None, ["the target label of 'one.png' is its true label"]),
    "target missing in one row": ("one.png,5,6\ntwo.JPEG,5\n", None, ["'two.JPEG' has no target label", "line 2"]),
    "no targets": ("one.png,5\n", True, ["'one.png' has no target label"]),
    "no column of targets": ("file,label\none.png,5\n", True, ["'one.png' has no target label"]),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_lists(folder, case):
    text, targets, expected = BAD[case]
    with pytest.raises(StudyError) as raised:
        read(folder, text, targets)
    for part in expected:
        assert part in str(raised.value)


def test_files_elsewhere(folder, tmp_path):
    """Paths may lead out of the folder; the id stays what the list says."""
    text = f"../one.png,3\n{folder / 'two.JPEG'},4\n"
    assert read_list_of(folder / "inner", text) == {"../one.png": 3, f"{folder / 'two.JPEG'}": 4}


def read_list_of(folder, text):
    (folder / "list.csv").write_text(text)
    found = read_list(folder, folder / "list.csv", label_set("imagenet"), targets=None)
    return {one.image: one.label for one in found}
