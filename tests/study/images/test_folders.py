"""Folders: labels from the names of folders or files, and an error for each wrong mixture."""

from __future__ import annotations

import pytest
from PIL import Image

from study.errors import StudyError
from study.images.folders import from_folder
from study.images.labels import label_set


def write(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        if name.endswith("/"):
            (folder / name).mkdir(exist_ok=True)
        else:
            Image.new("RGB", (4, 4)).save(folder / name, "PNG")


KINDS = {
    "WordNet ids, not positions": (
        "imagenet",
        ("n15075141/z.png", "n02123045/a.jpg", "n02123045/b.JPEG", ".hidden/x.png", "n02123045/.x.png"),
        {"n15075141/z.png": 999, "n02123045/a.jpg": 281, "n02123045/b.JPEG": 281},
    ),
    "names": ("cifar10", ("truck/1.png", "cat/1.png"), {"truck/1.png": 9, "cat/1.png": 3}),
    "numbers": ("cifar10", ("9/1.png", "03/1.png", "0/1.png"), {"9/1.png": 9, "03/1.png": 3, "0/1.png": 0}),
    "digits that are names": ("mnist", ("7/1.png", "1/1.png"), {"7/1.png": 7, "1/1.png": 1}),
    "names before numbers": (("2", "0"), ("2/1.png", "0/1.png"), {"2/1.png": 0, "0/1.png": 1}),
    "file names": (
        "imagenet",
        ("n02123045_17.png", "n15075141_2.JPEG"),
        {"n02123045_17.png": 281, "n15075141_2.JPEG": 999},
    ),
    "file names of few labels": (("n02123045", "n01440764"), ("n01440764_1.png",), {"n01440764_1.png": 1}),
}


@pytest.mark.parametrize("case", KINDS)
def test_kinds(tmp_path, case):
    labels, files, wanted = KINDS[case]
    write(tmp_path, *files)
    (tmp_path / "notes.txt").write_text("no image")
    found = from_folder(tmp_path, label_set(labels))
    assert {one.image: one.label for one in found} == wanted
    assert all(one.file.path == tmp_path / one.image for one in found)


BAD = {
    "unknown WordNet id": (
        "imagenet",
        ("n01440764/1.png", "n01440765/1.png"),
        ["n01440765 is not named by a WordNet id", "n01440764 (the nearest)"],
    ),
    "unknown name": (
        "cifar10",
        ("cats/1.png",),
        [
            "cats is not named by a label",
            "accepted: cat (the nearest), airplane, automobile, bird, deer, dog, frog, horse, ship, truck; or, for all "
            "folders, numbers from 0 to 9\n",
        ],
    ),
    "names and numbers": (
        "cifar10",
        ("cat/1.png", "4/1.png"),
        [
            "folders named by labels (cat) and by numbers (4)",
            "accepted: either labels for all folders, or numbers from 0 to 9 for all",
        ],
    ),
    "numbers from 1": ("cifar10", ("1/1.png", "10/1.png"), ["10 is not the number of a label", "subtract 1"]),
    "has both images and folders": (
        "imagenet",
        ("n01440764/1.png", "n01440764_1.png"),
        ["has both images and folders with images, such as n01440764_1.png and n01440764/"],
    ),
    "some files without an id": (
        "imagenet",
        ("n01440764_1.png", "cat.png"),
        ["cat.png does not begin with a WordNet id", "n01440764_1.png"],
    ),
    "files without ids": ("imagenet", ("a.png", "b.png"), ["have no labels in their names", "give `images: list:`"]),
    "validation images": ("imagenet", ("ILSVRC2012_val_00000001.JPEG",), ["have no labels", "`images: truth:`"]),
    "a file of an unknown id": (
        "imagenet",
        ("n01440765_1.png",),
        ["n01440765_1.png begins with a WordNet id that is not a label", "accepted: n01440764 (the nearest), "],
    ),
    "a file of an unknown id, and labels of both kinds": (
        ("cat", "n01440764", "n02123045"),
        ("n01440765_1.png",),
        ["accepted: n01440764 (the nearest), n02123045\n"],
    ),
    "a file of an id, and labels without ids": (
        "cifar10",
        ("n01440765_1.png",),
        ["accepted: folders named by labels or by their numbers, files named <WordNet id>_<anything>, or any image"],
    ),
    "no images": ("imagenet", ("n01440764/",), ["has no images in folders that are named by labels"]),
    "nothing": ("imagenet", (), ["has no images in folders that are named by labels"]),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_folders(tmp_path, case):
    labels, files, expected = BAD[case]
    write(tmp_path, *files)
    with pytest.raises(StudyError) as raised:
        from_folder(tmp_path, label_set(labels))
    for part in expected:
        assert part in str(raised.value)


def test_no_folder(tmp_path):
    with pytest.raises(StudyError, match=r"the image folder .* does not exist"):
        from_folder(tmp_path / "none", label_set("imagenet"))
