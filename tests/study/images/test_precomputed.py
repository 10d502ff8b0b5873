"""Adversarial images of other tools: which file is whose."""

from __future__ import annotations

import pytest
from PIL import Image

from study.errors import StudyError
from study.images.precomputed import precomputed_files

KINDS = {
    "the same paths": (["n1/x.png", "n2/x.png"], ["n1/x.png", "n2/x.png"], ["n1/x.png", "n2/x.png"]),
    "another suffix": (["n1/x.JPEG", "n2/x.JPEG"], ["n1/x.png", "n2/x.bmp"], ["n1/x.png", "n2/x.bmp"]),
    "flat": (["n1/x.JPEG", "n2/y.JPEG"], ["x.png", "y.TIFF"], ["x.png", "y.TIFF"]),
    "flat images in folders": (["x.png", "y.png"], ["0/x.png", "1/y.png"], ["0/x.png", "1/y.png"]),
    "other folders": (["n1/x.JPEG"], ["tench/x.png"], ["tench/x.png"]),
    "ids without a suffix": (["test-00001"], ["test-00001.png"], ["test-00001.png"]),
    "names with dots": (["x.v1"], ["x.v1.png", "x.v2.png"], ["x.v1.png"]),
    "the very name before others": (["x.png"], ["x.png", "x.bmp"], ["x.png"]),
    "a path before a name": (["n1/x.JPEG"], ["n1/x.png", "n2/x.png", "x.png"], ["n1/x.png"]),
    "more files than images": (["x.png"], ["x.png", "y.png", "notes.txt", ".x.png"], ["x.png"]),
    "a JPEG beside it": (["x.JPEG"], ["x.JPEG", "x.png"], ["x.png"]),
}


def write(folder, files):
    for name in files:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4)).save(folder / name, "JPEG" if name.endswith((".JPEG", "fake.png")) else "PNG")


@pytest.mark.parametrize("case", KINDS)
def test_kinds(tmp_path, case):
    images, files, wanted = KINDS[case]
    write(tmp_path, files)
    found = precomputed_files(tmp_path, images)
    assert list(found) == images
    assert [one.path for one in found.values()] == [tmp_path / name for name in wanted]


BAD = {
    "missing": (["n1/x.JPEG", "n1/y.JPEG", "n1/z.JPEG"], ["x.png"], "2 of 3 images are not in", "n1/y.JPEG"),
    "another image's": (["n1/x.JPEG", "n2/x.JPEG"], ["n2/x.png"], "1 of 2 images is not in", "n1/x.JPEG"),
    "a JPEG": (["x.JPEG", "y.JPEG"], ["x.JPEG", "y.png"], "1 of 2 images is in", "change the pixels of the attack"),
    "a JPEG in disguise": (["fake.JPEG"], ["fake.png"], "only in a format that is not accepted", "fake.png"),
    "several": (["x.JPEG"], ["x.png", "x.bmp"], "1 of 1 images is in", "x.JPEG, as x.bmp, x.png"),
    "several folders": (["n1/x.JPEG"], ["a/x.png", "b/x.png"], "more than once", "a/x.png, b/x.png"),
    "shared": (["n1/x.JPEG", "n2/x.JPEG"], ["x.png"], "x.png may belong to n1/x.JPEG or to n2/x.JPEG", "to do"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad(tmp_path, case):
    images, files, *expected = BAD[case]
    write(tmp_path, files)
    with pytest.raises(StudyError) as raised:
        precomputed_files(tmp_path, images)
    for part in expected:
        assert part in str(raised.value)


def test_no_folder(tmp_path):
    with pytest.raises(StudyError, match="does not exist"):
        precomputed_files(tmp_path / "none", ["x"])
