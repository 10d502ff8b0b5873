"""Image sets: labels come from ids, orders from hashes, and a set has one origin."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import yaml
from PIL import Image
from pydantic import ValidationError
from timm.data import ImageNetInfo

from study.errors import StudyError
from study.images import decoding
from study.images.image_sets import ImageSet, Ranked, candidates
from study.images.labels import label_set
from study.images.location import FileImage, file_digest


def save(path, size=(70, 60), mode="RGB"):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, 7).save(path)


def test_labels_are_timms():
    labels = label_set("imagenet")
    assert list(labels.labels) == ImageNetInfo().label_names()
    assert labels.find("n01440764") == 0
    assert labels.find("n15075141") == 999


def test_foolbox_sample():
    found = candidates(ImageSet(sample="foolbox"), 0)
    assert len(found) == 20
    assert {one.image: one.label for one in found}["imagenet_00_243.jpg"] == 243


def test_target_labels_are_drawn_per_image_and_seed():
    found = {one.image: one for one in candidates(ImageSet(sample="foolbox"), 3)}
    again = {one.image: one for one in candidates(ImageSet(sample="foolbox"), 3)}
    other = {one.image: one for one in candidates(ImageSet(sample="foolbox"), 4)}
    assert all(0 <= one.target_label < 1000 and one.target_label != one.label for one in found.values())
    assert {name: one.target_label for name, one in found.items()} == {
        name: one.target_label for name, one in again.items()
    }
    assert sum(found[name].target_label != other[name].target_label for name in found) >= 18
    assert [one.image for one in found.values()] != sorted(found)


def test_what_the_seed_draws_stays_as_it_was():
    """Values of finished studies, whose rows a change would contradict."""
    found = candidates(ImageSet(sample="foolbox"), 3)
    assert [(one.image, one.target_label) for one in found[:3]] == [
        ("imagenet_08_915.jpg", 38),
        ("imagenet_07_609.jpg", 692),
        ("imagenet_15_99.jpg", 294),
    ]


def test_few_labels_are_drawn_evenly(tmp_path):
    for index in range(300):
        save(tmp_path / "b" / f"{index}.png", (8, 8))
    found = candidates(ImageSet(folder=str(tmp_path), labels=["a", "b", "c"]), 0)
    counts = np.bincount([one.target_label for one in found], minlength=3)
    assert counts[1] == 0
    assert abs(counts[0] - 150) < 40


@pytest.mark.parametrize("targets", ["most-confusing", "least-likely", {"rank": 3, "by": ["a"]}])
def test_ranked_targets_wait_for_predictions(targets):
    images = ImageSet(sample="foolbox", targets=targets)
    assert {one.target_label for one in candidates(images, 0)} == {None}
    wanted = {"most-confusing": Ranked(rank=1), "least-likely": Ranked(rank="last")}
    assert images.targets == (wanted[targets] if isinstance(targets, str) else Ranked(rank=3, by=("a",)))


def test_labels_of_a_file(tmp_path):
    (tmp_path / "names.txt").write_text("left\nright\n")
    images = ImageSet(folder="x", labels=str(tmp_path / "names.txt"))
    assert images.labels == ("left", "right")


FULL = {
    "folder": "x", "list": "y", "labels": ["left", "right"], "size": 32, "fit": "exact", "channels": 1,
    "keep": ["a", "b"], "targets": {"rank": 1, "by": ["a"]}, "corrupt": "leave-out",
}  # fmt: skip


def test_a_resolved_set_reads_as_an_equal_one():
    for given in (FULL, {"sample": "foolbox", "targets": "least-likely"}, {"records": "x", "split": "train"}):
        images = ImageSet(**given)
        assert ImageSet(**yaml.safe_load(yaml.safe_dump(images.model_dump(mode="json")))) == images


BAD = {
    "no origin": ({}, "needs exactly one of"),
    "two origins": ({"folder": "x", "records": "y"}, "needs exactly one of"),
    "a list of nothing": ({"records": "x", "list": "y"}, "`list` needs `folder`"),
    "a truth of nothing": ({"parquet": "x", "truth": "y"}, "`truth` needs `folder`"),
    "list and truth": ({"folder": "x", "list": "y", "truth": "z"}, "from `list` or from `truth`"),
    "a split of a folder": ({"folder": "x", "split": "train"}, "`split: train` needs `records`"),
    "targets without a list": ({"folder": "x", "targets": "list"}, "third column"),
    "a sample of other labels": ({"sample": "foolbox", "labels": "cifar10"}, "has ImageNet's labels"),
    "unknown labels": ({"folder": "x", "labels": "cifar100"}, "'cifar100' is neither a known label set nor a file"),
    "a label twice": ({"folder": "x", "labels": ["a", "b", "a"]}, "the label 'a' occurs twice"),
    "numbers for labels": ({"folder": "x", "labels": [1, 2]}, "1 is not the name of a label"),
    "one label": ({"folder": "x", "labels": ["a"]}, "needs two labels, but this one has 1"),
    "a rank beyond": (
        {"folder": "x", "labels": "mnist", "targets": {"rank": 10}},
        "rank 10 does not exist: the number of other labels is 9",
    ),
    "rank 0": ({"folder": "x", "targets": {"rank": 0}}, "greater than or equal to 1"),
    "unknown targets": ({"folder": "x", "targets": "likely"}, "'likely' is not a choice of target labels"),
    "two channels": ({"folder": "x", "channels": 2}, "1 or 3"),
    "nobody to be right": ({"folder": "x", "keep": []}, "at least 1"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_sets(case):
    given, expected = BAD[case]
    with pytest.raises(ValidationError, match=expected):
        ImageSet(**given)


def test_a_file_of_labels_with_a_name_twice(tmp_path):
    (tmp_path / "names.txt").write_text("a\nb\na\n")
    with pytest.raises(ValidationError, match=r"the label 'a' occurs twice \(.*names\.txt, line 3, and line 1\)"):
        ImageSet(folder="x", labels=str(tmp_path / "names.txt"))


def test_candidates_cross_process_borders(tmp_path):
    save(tmp_path / "n02123045" / "a.png")
    found = candidates(ImageSet(folder=str(tmp_path)), 0)
    assert pickle.loads(pickle.dumps(found)) == found


def test_a_digest_is_that_of_the_bytes(tmp_path):
    import hashlib

    save(tmp_path / "a.png")
    assert file_digest(FileImage(tmp_path / "a.png")) == hashlib.sha256((tmp_path / "a.png").read_bytes()).hexdigest()
    with pytest.raises(StudyError, match=r"b\.png cannot be read: No such file"):
        file_digest(FileImage(tmp_path / "b.png"))


def idx(path, array):
    """An IDX file: magic number, sizes, bytes."""
    path.write_bytes(bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes() + array.tobytes())


def test_records(tmp_path):
    random = np.random.default_rng(0)
    digits, labels = random.integers(0, 256, (5, 28, 28), dtype=np.uint8), np.array([3, 0, 9, 1, 1], np.uint8)
    idx(tmp_path / "t10k-images-idx3-ubyte", digits)
    idx(tmp_path / "t10k-labels-idx1-ubyte", labels)
    images = ImageSet(records=str(tmp_path), labels="fashion-mnist", size=28, fit="exact", channels=1)
    found = {one.image: one for one in candidates(images, 0)}
    assert [found[f"test-{index:05d}"].label for index in range(5)] == labels.tolist()
    for index in range(5):
        stored = found[f"test-{index:05d}"].file
        assert np.array_equal(decoding.read(stored, images), digits[index][None])
        assert pickle.loads(pickle.dumps(stored)) == stored
    assert len({file_digest(one.file) for one in found.values()}) == 5
    assert str(found["test-00003"].file) == f"{tmp_path}, test image 3"
    too_few = ImageSet(records=str(tmp_path), labels=["a", "b", "c"], size=28)
    with pytest.raises(StudyError, match="has the label 9, but the study has 3 labels"):
        candidates(too_few, 0)


def test_records_in_colour(tmp_path):
    """CIFAR-10's batches: a label, then 1,024 red, green and blue bytes each."""
    batch = np.random.default_rng(0).integers(0, 256, (4, 3073), dtype=np.uint8)
    batch[:, 0] = [9, 0, 3, 3]
    (tmp_path / "test_batch.bin").write_bytes(batch.tobytes())
    images = ImageSet(records=str(tmp_path), labels="cifar10", size=32, fit="exact")
    for one in candidates(images, 0):
        row = batch[one.file.index]
        assert one.label == row[0]
        assert np.array_equal(decoding.read(one.file, images).ravel(), row[1:])
