"""Records: files of IDX and CIFAR-10 made here byte by byte, every way in which one can be broken, and a real set."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest

from study.errors import StudyError
from study.images import decoding, records
from study.images.image_sets import ImageSet
from study.images.location import RecordImage, file_digest

FASHION = Path("/usr/share/datasets/fashion-mnist")


@pytest.fixture(autouse=True)
def _forget():
    """What was read is kept by path, and these tests write files."""
    yield
    records.read.cache_clear()


def drawn(count, shape):
    generator = np.random.default_rng(count)
    return generator.integers(0, 256, (count, *shape), dtype=np.uint8), generator.integers(0, 10, count, dtype=np.uint8)


def idx(array) -> bytes:
    return bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def put(path, content: bytes):
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


def write_idx(folder, split="t10k", count=7, style="{}-{}-idx{}-ubyte"):
    pixels, labels = drawn(count, (5, 4))
    put(folder / style.format(split, "images", 3), idx(pixels))
    put(folder / style.format(split, "labels", 1), idx(labels))
    return pixels, labels


def write_cifar(folder, names, count=3):
    pixels, labels = drawn(count * len(names), (3, 32, 32))
    for index, name in enumerate(names):
        rows = range(index * count, (index + 1) * count)
        put(folder / name, b"".join(bytes([labels[row]]) + pixels[row].tobytes() for row in rows))
    return pixels, labels


TRAIN = [f"data_batch_{number}.bin" for number in range(1, 6)]


def complaint(folder, split="test") -> StudyError:
    with pytest.raises(StudyError) as raised:
        records.read(folder, split)
    return raised.value


@pytest.mark.parametrize(
    "style", ["{}-{}-idx{}-ubyte", "{}-{}.idx{}-ubyte", "{}-{}-idx{}-ubyte.gz", "{}-{}.idx{}-ubyte.gz"]
)
@pytest.mark.parametrize(("split", "prefix"), [("train", "train"), ("test", "t10k")])
def test_idx_files_under_each_of_their_names(tmp_path, style, split, prefix):
    pixels, labels = write_idx(tmp_path, prefix, style=style)
    assert records.kind(tmp_path) == "idx"
    assert [path.name for path in records.files(tmp_path, split)] == [
        style.format(prefix, "images", 3),
        style.format(prefix, "labels", 1),
    ]
    found, marks = records.read(tmp_path, split)
    assert (found.dtype, marks.dtype) == (np.uint8, np.int64)
    np.testing.assert_array_equal(found, pixels[:, None])
    np.testing.assert_array_equal(marks, labels)


def test_cifar_batches_in_the_order_of_their_numbers(tmp_path):
    pixels, labels = write_cifar(tmp_path, TRAIN)
    tested, marked = write_cifar(tmp_path, ["test_batch.bin"], count=4)
    assert records.kind(tmp_path) == "cifar"
    for split, (expected, marks) in {"train": (pixels, labels), "test": (tested, marked)}.items():
        found, read = records.read(tmp_path, split)
        assert (found.dtype, read.dtype) == (np.uint8, np.int64)
        np.testing.assert_array_equal(found, expected)
        np.testing.assert_array_equal(read, marks)


def test_what_was_read_is_kept_and_cannot_be_written_to(tmp_path):
    write_idx(tmp_path)
    pixels, labels = records.read(tmp_path, "test")
    assert records.read(tmp_path, "test")[0] is pixels
    for array in (pixels, labels):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 0


def test_an_image_beyond_the_records_of_another_file(tmp_path):
    write_idx(tmp_path, count=7)
    assert len(file_digest(RecordImage(tmp_path, "test", 6))) == 64
    images = ImageSet(records=str(tmp_path), labels="mnist", channels=1, size=8)
    for use in (file_digest, lambda stored: decoding.read(stored, images)):
        with pytest.raises(StudyError) as raised:
            use(RecordImage(tmp_path, "test", 7))
        assert raised.value.what == f"the image {tmp_path}, test image 7 cannot be read: the split has fewer images"


def test_missing_files_and_folders(tmp_path):
    assert "does not exist" in complaint(tmp_path / "none").what
    assert "has no records" in complaint(tmp_path).what
    write_idx(tmp_path)
    assert "train-images-idx3-ubyte and no train-labels-idx1-ubyte" in complaint(tmp_path, "train").what
    (tmp_path / "t10k-labels-idx1-ubyte").unlink()
    error = complaint(tmp_path)
    assert "t10k-labels-idx1-ubyte" in error.what
    assert "images" not in error.what
    assert "'tset' is not a split" in complaint(tmp_path, "tset").what


def test_a_missing_cifar_batch(tmp_path):
    write_cifar(tmp_path, [name for name in TRAIN if "3" not in name])
    assert "data_batch_3.bin" in complaint(tmp_path, "train").what
    assert "test_batch.bin" in complaint(tmp_path, "test").what


def test_a_folder_below_is_hinted_at(tmp_path):
    (tmp_path / "cifar-10-batches-bin").mkdir()
    write_cifar(tmp_path / "cifar-10-batches-bin", ["test_batch.bin"])
    assert "test_batch.bin is in a subfolder" in complaint(tmp_path).what


def test_two_kinds_in_one_folder(tmp_path):
    write_idx(tmp_path)
    write_cifar(tmp_path, ["test_batch.bin"])
    assert "in two formats" in complaint(tmp_path).what


@pytest.mark.parametrize("name", ["data_batch_1", "test_batch", "batches.meta"])
def test_pickles_are_refused(tmp_path, name):
    (tmp_path / name).write_bytes(b"\x80\x04.")
    error = complaint(tmp_path)
    assert name in error.what
    assert "binary version" in (error.todo or "")


IMAGES, LABELS = "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda whole: whole[:-1], "should have 140 bytes after its header, but has only 139"),
        (lambda whole: whole[:16], "has only 0"),
        (lambda whole: whole + b"\0", "but has more"),
        (lambda whole: b"", "begins with nothing"),
        (lambda whole: whole[:9], "announces 7"),
        (lambda whole: b"\0\0\x0d\3" + whole[4:], "begins with 00 00 0d 03"),
        (lambda whole: b"\0\0\x08\1" + whole[4:], "begins with 00 00 08 01"),
        (lambda whole: whole[:4] + struct.pack(">3I", 0, 5, 4), "announces 0 x 5 x 4"),
        (lambda whole: whole[:4] + b"\xff" * 12 + whole[16:], "announces 4294967295 x 4294967295"),
        (gzip.compress, "should end in .gz"),
    ],
    ids=["cut", "header only", "too long", "empty", "half a header", "floats", "labels", "none", "vast", "packed"],
)
def test_broken_idx_files(tmp_path, change, what, suffix):
    pixels, _ = write_idx(tmp_path)
    (tmp_path / IMAGES).unlink()
    put(tmp_path / (IMAGES + suffix), change(idx(pixels)))
    error = complaint(tmp_path)
    assert IMAGES in error.what
    assert what in error.what


def test_damaged_gzip(tmp_path):
    pixels, _ = write_idx(tmp_path)
    (tmp_path / IMAGES).unlink()
    packed = gzip.compress(idx(pixels))
    for content in (packed[:-12], b"not packed at all", packed[:20] + b"\xff" * 20 + packed[40:]):
        (tmp_path / f"{IMAGES}.gz").write_bytes(content)
        error = complaint(tmp_path)
        assert f"{IMAGES}.gz" in error.what


def test_a_bomb_is_read_no_further_than_its_header(tmp_path, monkeypatch):
    pixels, _ = write_idx(tmp_path)
    (tmp_path / IMAGES).unlink()
    put(tmp_path / f"{IMAGES}.gz", idx(pixels) + bytes(50_000_000))
    asked = []
    read = gzip.GzipFile.read

    def watched(self, size=-1):
        asked.append(size)
        return read(self, size)

    monkeypatch.setattr(gzip.GzipFile, "read", watched)
    assert "but has more" in complaint(tmp_path).what
    assert asked == [16, 141]


def test_images_and_labels_of_other_counts(tmp_path):
    write_idx(tmp_path)
    put(tmp_path / LABELS, idx(drawn(6, (5, 4))[1]))
    assert "7 images" in complaint(tmp_path).what
    assert "6 labels" in complaint(tmp_path).what


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"", "0 bytes"),
        (bytes(3073 - 1), "3072 bytes"),
        (bytes(3073 + 5), "3078 bytes"),
        (b"\x0b" + bytes(3072), "has the label 11"),
    ],
)
def test_broken_cifar_batches(tmp_path, content, what):
    (tmp_path / "test_batch.bin").write_bytes(content)
    error = complaint(tmp_path)
    assert "test_batch.bin" in error.what
    assert what in error.what


@pytest.mark.skipif(not FASHION.is_dir(), reason="Debian's package dataset-fashion-mnist is not installed")
def test_real_files():
    for split, count in (("train", 60_000), ("test", 10_000)):
        pixels, labels = records.read(FASHION, split)
        assert pixels.shape == (count, 1, 28, 28)
        assert np.bincount(labels).tolist() == [count // 10] * 10
    # The mean of the training pixels, as it is published for this set.
    assert records.read(FASHION, "train")[0].mean() / 255 == pytest.approx(0.2860, abs=1e-4)
