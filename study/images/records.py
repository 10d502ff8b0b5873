"""Read MNIST's IDX files and CIFAR-10's binary batches. The files are read completely and checked."""

from __future__ import annotations

import gzip
import zlib
from functools import lru_cache
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from study.errors import StudyError, names

Kind = Literal["idx", "cifar"]

SPLITS = ("train", "test")
_IDX_PREFIXES = {"train": "train", "test": "t10k"}
_IDX_PARTS = {"images": 3, "labels": 1}
_CIFAR_FILES = {"train": tuple(f"data_batch_{number}.bin" for number in range(1, 6)), "test": ("test_batch.bin",)}
_CIFAR_PICKLES = ("data_batch_1", "test_batch", "batches.meta", "cifar-10-batches-py")
_RECORD = 1 + 3 * 32 * 32
_MOST_BYTES = 2**33
_FORMATS = (
    "MNIST's IDX files (train-images-idx3-ubyte and so on, plain or .gz), or CIFAR-10's binary batches (test_batch.bin)"
)


@lru_cache(maxsize=4)
def read(folder: Path, split: str) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return the images of a split, `train` or `test`: pixels (N, C, H, W) and labels (N,), in the order of the files.

    C is 1 for IDX files and 3 (RGB) for CIFAR-10. Both arrays are read-only and stay in memory. Raises StudyError,
    which names the file, if a file is missing, has another format, or has the wrong length, or if the numbers of images
    and labels differ.
    """
    found = files(folder, split)
    pixels, labels = _idx(*found) if kind(folder) == "idx" else _cifar(found)
    pixels.setflags(write=False)
    labels.setflags(write=False)
    return pixels, labels


def kind(folder: Path) -> Kind:
    """Return the format of the files in `folder`.

    Raises StudyError if there are files of neither format, or of both formats.
    """
    if not folder.is_dir():
        raise StudyError(
            f"the folder of records {folder} does not exist, or is not a folder",
            accepted=f"a folder with {_FORMATS}",
            todo="correct the path",
        )
    idx = any(_idx_file(folder, split, part) for split in SPLITS for part in _IDX_PARTS)
    cifar = any((folder / name).is_file() for split in SPLITS for name in _CIFAR_FILES[split])
    if idx and cifar:
        raise StudyError(
            f"{folder} has records in two formats", accepted=_FORMATS, todo="use a separate folder for each format"
        )
    if not idx and not cifar:
        raise _none(folder)
    return "idx" if idx else "cifar"


def files(folder: Path, split: str) -> tuple[Path, ...]:
    """Return the files of `split`: in IDX, those of images and of labels; for CIFAR-10, the batches in their order.

    Raises StudyError if the split is unknown, or if a file is missing.
    """
    if split not in SPLITS:
        raise StudyError(f"'{split}' is not a split", accepted=names(SPLITS, split))
    if kind(folder) == "cifar":
        found = tuple(folder / name for name in _CIFAR_FILES[split])
        missing = [path.name for path in found if not path.is_file()]
    else:
        parts = {part: _idx_file(folder, split, part) for part in _IDX_PARTS}
        found = tuple(path for path in parts.values() if path is not None)
        missing = [_idx_names(split, part)[0] for part, path in parts.items() if path is None]
    if missing:
        raise StudyError(
            f"{folder} has no {' and no '.join(missing)}, which the split '{split}' needs",
            accepted=_FORMATS,
            todo="add the missing files, or choose the other split",
        )
    return found


def _none(folder: Path) -> StudyError:
    pickles = [name for name in _CIFAR_PICKLES if (folder / name).exists()]
    if pickles:
        return StudyError(
            f"{folder / pickles[0]} belongs to the Python version of CIFAR-10, whose pickles can run code",
            accepted=_FORMATS,
            todo="download the binary version (cifar-10-binary.tar.gz) of CIFAR-10",
        )
    inside = [path.name for path in sorted(folder.glob("*/*.bin"))[:1]]
    nested = f"; {inside[0]} is in a subfolder" if inside else ""
    return StudyError(f"{folder} has no records{nested}", accepted=_FORMATS, todo="correct the path")


def _idx_names(split: str, part: str) -> list[str]:
    stem, dimensions = f"{_IDX_PREFIXES[split]}-{part}", _IDX_PARTS[part]
    plain = [f"{stem}-idx{dimensions}-ubyte", f"{stem}.idx{dimensions}-ubyte"]
    return [*plain, *(f"{name}.gz" for name in plain)]


def _idx_file(folder: Path, split: str, part: str) -> Path | None:
    return next((folder / name for name in _idx_names(split, part) if (folder / name).is_file()), None)


def _idx(images: Path, labels: Path) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    pixels, marks = _idx_array(images, 3), _idx_array(labels, 1)
    if len(pixels) != len(marks):
        raise StudyError(
            f"{images} has {len(pixels)} images, but {labels.name} has {len(marks)} labels",
            accepted="one label for each image",
            todo="fetch both files again from the same source",
        )
    return pixels[:, None], marks.astype(np.int64)


def _idx_array(path: Path, dimensions: int) -> NDArray[np.uint8]:
    """Return the array in an IDX file.

    The file has four bytes with a magic number, four bytes for the size of each dimension, and then the data.
    """
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            header = file.read(4 + 4 * dimensions)
            shape = _idx_shape(path, header, dimensions)
            # A small .gz can expand without end: read only what the header promises, and one byte more as a check.
            data = file.read(int(np.prod(shape)) + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise StudyError(
            f"{path} cannot be read: {getattr(error, 'strerror', None) or error}",
            accepted="an IDX file, plain, or compressed with gzip and named .gz",
            todo="fetch the file again",
        ) from None
    _must_hold(path, len(data), int(np.prod(shape)))
    return np.frombuffer(bytearray(data), np.uint8).reshape(shape)


def _idx_shape(path: Path, header: bytes, dimensions: int) -> tuple[int, ...]:
    magic, sizes = header[:4], np.frombuffer(header[4 : len(header) // 4 * 4], ">u4")
    if magic != bytes([0, 0, 8, dimensions]):
        packed = " (the file is compressed: its name should end in .gz)" if magic[:2] == b"\x1f\x8b" else ""
        raise StudyError(
            f"{path} begins with {magic.hex(' ') or 'nothing'}, not with an IDX file's magic number{packed}",
            accepted=f"00 00 08 0{dimensions}: unsigned bytes in {dimensions} dimension{'s' if dimensions > 1 else ''}",
            todo="fetch the file again",
        )
    shape = tuple(int(size) for size in sizes)
    if len(shape) < dimensions or not all(shape) or np.prod([float(size) for size in shape]) > _MOST_BYTES:
        size = " x ".join(map(str, shape)) or "no"
        raise StudyError(
            f"the header of {path} announces {size} bytes",
            accepted=f"a size above 0 for each dimension (of {dimensions}), at most {_MOST_BYTES // 2**30} GiB in all",
            todo="fetch the file again",
        )
    return shape


def _must_hold(path: Path, found: int, expected: int) -> None:
    if found != expected:
        size = "more" if found > expected else f"only {found}"
        raise StudyError(
            f"{path} should have {expected} bytes after its header, but has {size}",
            accepted="a file of the size in its header",
            todo="fetch the file again",
        )


def _cifar(paths: tuple[Path, ...]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return the pixels and labels of CIFAR-10's batches.

    A record has one byte for the label and 3,072 bytes for the pixels: 32 x 32 red values, then green, then blue
    values.
    """
    records = np.concatenate([_cifar_records(path) for path in paths])
    return np.ascontiguousarray(records[:, 1:]).reshape(-1, 3, 32, 32), records[:, 0].astype(np.int64)


def _cifar_records(path: Path) -> NDArray[np.uint8]:
    accepted = f"records of {_RECORD} bytes: a label 0 to 9, then 3,072 bytes of pixels"
    try:
        size = path.stat().st_size
        if not 0 < size <= _MOST_BYTES or size % _RECORD:
            raise StudyError(
                f"{path} has {size} bytes, which is not the size of a batch of CIFAR-10",
                accepted=accepted,
                todo="fetch the file again",
            )
        found = np.fromfile(path, np.uint8).reshape(-1, _RECORD)
    except OSError as error:
        raise StudyError(f"{path} cannot be read: {error.strerror}", accepted=accepted) from None
    if found[:, 0].max() > 9:
        raise StudyError(
            f"{path} has the label {found[:, 0].max()}",
            accepted=accepted,
            todo="use the batches of CIFAR-10, not of CIFAR-100",
        )
    return found
