"""Label sets: names, indices and what people call them."""

from __future__ import annotations

import pytest
from timm.data import ImageNetInfo

from study.errors import StudyError
from study.images.labels import KNOWN, label_set, read_names


def test_imagenet_is_timms():
    imagenet = label_set("imagenet")
    assert list(imagenet.labels) == ImageNetInfo().label_names()
    assert (imagenet.find("n01440764"), imagenet.find("n15075141"), imagenet.find("999")) == (0, 999, 999)
    assert imagenet.find("1000") is imagenet.find("cat") is imagenet.find("-1") is imagenet.find("²") is None
    for index in (0, 281, 999):
        assert ", ".join(imagenet.words(index)) == ImageNetInfo().index_to_description(index, detailed=False)


@pytest.mark.parametrize(("name", "count"), [("imagenet", 1000), ("cifar10", 10), ("mnist", 10), ("fashion-mnist", 10)])
def test_known_sets(name, count):
    found = label_set(name)
    assert len(found) == len(set(found.labels)) == count
    assert all(found.find(label) == index for index, label in enumerate(found.labels))


def test_every_known_set_is_tested():
    assert set(KNOWN) == {"imagenet", "cifar10", "mnist", "fashion-mnist"}


def test_a_name_wins_over_a_number():
    """A label called 1 is that label, whatever its index."""
    own = label_set(["2", "1", "cat"])
    assert (own.find("1"), own.find("2"), own.find("0"), own.find("cat")) == (1, 0, 0, 2)
    assert own.words(2) == ("cat",)


def test_names_from_a_file(tmp_path):
    path = tmp_path / "labels.txt"
    path.write_text("﻿cat\n\n dog \n", encoding="utf-8")
    assert read_names(path) == ("cat", "dog")
    path.write_text("cat\ndog\ncat\n")
    with pytest.raises(StudyError, match="'cat' occurs twice") as caught:
        read_names(path)
    assert "line 3, and line 1" in str(caught.value)
    path.write_text("cat\n")
    with pytest.raises(StudyError, match=r"the number of labels in .* is 1"):
        read_names(path)
    with pytest.raises(StudyError, match="No such file"):
        read_names(tmp_path / "none.txt")
