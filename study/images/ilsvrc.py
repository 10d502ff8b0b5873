"""The ILSVRC 2012 validation images, whose labels stand in a file of their own and not in the images' names."""

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
"""Validation images of ILSVRC 2012: a file with so many lines labels any part of them."""

_NUMBER = re.compile(r".*_(\d{8})")
_ACCEPTED = (
    "ILSVRC2012_validation_ground_truth.txt of the development kit, with the kit's meta.mat; a file with one WordNet "
    "id in each line; or Caffe's val.txt (ILSVRC2012_val_00000001.JPEG 65)"
)


def read_truth(folder: Path, file: Path, labels: LabelSet) -> list[Listed]:
    """The numbered validation images of `folder`: image k is the file whose name ends in k with eight digits.

    The label of image k stands in line k of `file`: as the development kit's own number, which its meta.mat translates,
    or as a WordNet id; or anywhere in it beside the image's name (Caffe), then as a label's number from 0. Raises
    StudyError where lines and images do not fit together.
    """
    folders, files = contents(folder)
    if folders and not files:
        raise StudyError(
            f"the folder {folder} has folders and no images, such as {folders[0].name}",
            accepted="with `images: truth:`, the validation images themselves",
            todo="leave `images: truth:` out where the folders are named by labels",
        )
    images: dict[int, Path] = {}
    for path in files:
        match = _NUMBER.fullmatch(path.stem)
        if match is None:
            raise StudyError(
                f"the image {path} has no number that a line of {file} could be its label by",
                accepted="names that end in _ and eight digits, such as ILSVRC2012_val_00000001.JPEG",
                todo="move it away, or give `images: list:` instead of `images: truth:`",
            )
        number = int(match[1])
        if number in images:
            raise StudyError(f"{images[number].name} and {path.name} in {folder} have the same number")
        images[number] = path
    truth = _labels(file, labels)
    beyond = next((number for number in images if number not in truth), None)
    if not images or beyond is not None or len(truth) not in (_ALL, len(images)):
        missing = f", none of them for {images[beyond].name}" if beyond is not None else ""
        raise StudyError(
            f"{file} has labels of {len(truth)} images{missing}, and {folder} has {len(images)} images",
            accepted=f"a line for each of the images, or the {_ALL} lines for all of ILSVRC's validation images",
            todo="correct `images: truth:` or `images: folder:`",
        )
    return [Listed(path.name, FileImage(path), truth[number]) for number, path in images.items()]


def _labels(file: Path, labels: LabelSet) -> dict[int, int]:
    """The label of each image by its number."""
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
    kit: dict[int, str] | None = None
    truth: dict[int, int] = {}
    for line, row in enumerate(rows, 1):
        where = f"{file}, line {line}"
        if len(row) != len(rows[0]) or len(row) not in (1, 2):
            raise StudyError(f"'{' '.join(row)}' is not the label of an image", where=where, accepted=_ACCEPTED)
        number, text = line, row[-1]
        if len(row) == 2:
            match = _NUMBER.fullmatch(Path(row[0]).stem)
            if match is None or int(match[1]) in truth:
                what = "has no number of eight digits at its end" if match is None else "is listed twice"
                raise StudyError(f"'{row[0]}' {what}", where=where, accepted=_ACCEPTED)
            number = int(match[1])
        elif text.isascii() and text.isdecimal():
            kit = _kit(file) if kit is None else kit
            if int(text) not in kit:
                raise StudyError(
                    f"'{text}' is none of the development kit's numbers",
                    where=where,
                    accepted="1 to 1000, as meta.mat numbers the WordNet ids",
                    todo="give numbers that count from 0 in `images: list:`, with the names of the images",
                )
            text = kit[int(text)]
        label = labels.find(text)
        if label is None:
            raise StudyError(
                f"'{text}' is not a label of {'ImageNet' if labels.name == 'imagenet' else 'this study'}",
                where=where,
                accepted=labels.accepted,
            )
        truth[number] = label
    return truth


def _kit(file: Path) -> dict[int, str]:
    """WordNet ids by the development kit's numbers, from its meta.mat."""
    places = [file.parent / "meta.mat", file.parent / "data" / "meta.mat"]
    meta = next((path for path in places if path.is_file()), None)
    if meta is None:
        raise StudyError(
            f"the numbers in {file} are those of ILSVRC's development kit, and its meta.mat is not there",
            accepted=" or ".join(str(path) for path in places),
            todo="put the kit's data/meta.mat there. The kit counts classes in an order of its own, which no model "
            "has: its numbers alone would name wrong classes",
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
