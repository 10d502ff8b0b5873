"""The ILSVRC 2012 validation images, whose labels are in a separate file."""

from __future__ import annotations

import importlib
import re
import struct
import zlib
from pathlib import Path

from study.errors import StudyError
from study.images.folders import contents
from study.images.labels import LabelSet
from study.images.location import FileImage, Listed

_ALL = 50_000
"""The number of validation images.

A file with this number of lines is also accepted if the folder has only some images.
"""

_NUMBER = re.compile(r".*_(\d{8})")
_ACCEPTED = (
    "ILSVRC2012_validation_ground_truth.txt of the development kit, with the kit's meta.mat; a file with one WordNet "
    "id in each line; or Caffe's val.txt (ILSVRC2012_val_00000001.JPEG 65)"
)


def read_truth(folder: Path, file: Path, labels: LabelSet) -> list[Listed]:
    """List the validation images of `folder` with their labels.

    The name of image k ends in k, written with eight digits. Line k of `file` has the label of image k: a WordNet id,
    or a class number of the development kit. The kit's meta.mat maps class numbers to WordNet ids. In Caffe's format,
    each line has the name of an image, and a label that counts from 0. Raises StudyError if `file` cannot be read, if a
    name or a line has another form, or if lines and images do not match.
    """
    folders, files = contents(folder)
    if folders and not files:
        raise StudyError(
            f"the folder {folder} has folders, such as {folders[0].name}, but no images",
            accepted="a folder with the validation images themselves, because `images: truth:` is given",
            todo="remove `images: truth:` if the folders are named by labels",
        )
    images: dict[int, Path] = {}
    for path in files:
        match = _NUMBER.fullmatch(path.stem)
        if match is None:
            raise StudyError(
                f"the name of the image {path} does not end in _ and eight digits, so no line of {file} gives its "
                "label",
                accepted="names such as ILSVRC2012_val_00000001.JPEG",
                todo="remove it, or give `images: list:` in place of `images: truth:`",
            )
        number = int(match[1])
        if number in images:
            raise StudyError(f"{images[number].name} and {path.name} in {folder} have the same number")
        images[number] = path
    truth = _labels(file, labels)
    beyond = next((number for number in images if number not in truth), None)
    if not images or beyond is not None or len(truth) not in (_ALL, len(images)):
        missing = f" (no label for {images[beyond].name})" if beyond is not None else ""
        raise StudyError(
            f"{file} has labels of {len(truth)} images{missing}, but {folder} has {len(images)} images",
            accepted=f"a file with one line for each image in the folder, or with {_ALL} lines for all of ILSVRC's "
            "validation images",
            todo="correct `images: truth:` or `images: folder:`",
        )
    return [Listed(path.name, FileImage(path), truth[number]) for number, path in images.items()]


def _labels(file: Path, labels: LabelSet) -> dict[int, int]:
    """Return the label of each image that the file lists, by the number of the image."""
    try:
        lines = file.read_text(encoding="utf-8-sig").rstrip().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise StudyError(
            f"the ground truth {file} cannot be read: {reason}",
            accepted=_ACCEPTED,
            todo="correct `images: truth:`",
        ) from None
    rows = [line.split() for line in lines]
    wordnet_ids: dict[int, str] | None = None
    truth: dict[int, int] = {}
    for line, row in enumerate(rows, 1):
        where = f"{file}, line {line}"
        if len(row) != len(rows[0]) or len(row) not in (1, 2):
            raise StudyError(f"'{' '.join(row)}' is not the label of an image", where=where, accepted=_ACCEPTED)
        number, text = line, row[-1]
        if len(row) == 2:
            match = _NUMBER.fullmatch(Path(row[0]).stem)
            if match is None or int(match[1]) in truth:
                what = "does not end in _ and eight digits" if match is None else "has a number that is listed twice"
                raise StudyError(f"'{row[0]}' {what}", where=where, accepted=_ACCEPTED)
            number = int(match[1])
        elif text.isascii() and text.isdecimal():
            wordnet_ids = _wordnet_ids(file) if wordnet_ids is None else wordnet_ids
            if int(text) not in wordnet_ids:
                raise StudyError(
                    f"'{text}' is not a class number of the development kit",
                    where=where,
                    accepted="1 to 1000, as meta.mat numbers the WordNet ids",
                    todo="for numbers that count from 0, give `images: list:` with the names of the images",
                )
            text = wordnet_ids[int(text)]
        label = labels.find(text)
        if label is None:
            raise StudyError(
                f"'{text}' is not a label of {'ImageNet' if labels.name == 'imagenet' else 'this study'}",
                where=where,
                accepted=labels.accepted,
            )
        truth[number] = label
    return truth


def _wordnet_ids(file: Path) -> dict[int, str]:
    """Return the WordNet ids, by the class numbers of the development kit. They are read from the kit's meta.mat.

    `file` is the ground truth; meta.mat is beside it or in the subfolder `data`.
    """
    places = [file.parent / "meta.mat", file.parent / "data" / "meta.mat"]
    meta = next((path for path in places if path.is_file()), None)
    if meta is None:
        raise StudyError(
            f"the numbers in {file} need the meta.mat of ILSVRC's development kit, which is missing",
            accepted=" or ".join(str(path) for path in places),
            todo="copy the kit's data/meta.mat to one of these paths: the kit numbers classes in an order that no "
            "model uses",
        )
    try:
        scipy_io = importlib.import_module("scipy.io")
    except ImportError:
        raise StudyError(
            f"{meta} is a MATLAB file, and scipy, which reads it, is not installed",
            todo="pip install scipy",
        ) from None
    broken = (OSError, ValueError, TypeError, LookupError, NotImplementedError, struct.error, zlib.error)
    try:
        synsets = scipy_io.loadmat(meta, squeeze_me=True, variable_names=["synsets"])["synsets"]
        return {
            int(number): str(wordnet_id)
            for number, wordnet_id in zip(synsets["ILSVRC2012_ID"], synsets["WNID"], strict=True)
        }
    except (scipy_io.matlab.MatReadError, *broken) as error:
        raise StudyError(
            f"{meta} cannot be read: {error}",
            accepted="the development kit's meta.mat, with the fields ILSVRC2012_ID and WNID of its variable synsets",
            todo="fetch the development kit again",
        ) from None
