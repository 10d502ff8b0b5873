"""Folders of images whose labels are in the names of folders or files."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path

from study.errors import StudyError, names
from study.images.labels import LabelSet
from study.images.location import FileImage, Listed

SUFFIXES = (".jpeg", ".jpg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm", ".pgm")
"""The suffixes of image files, in lower case."""

_KINDS = (
    "folders named by labels or by their numbers, files named <WordNet id>_<anything>, or any image files whose labels "
    "are in `images: list:` or, for ILSVRC's validation images, in `images: truth:`"
)
_WORDNET_ID = re.compile(r"n\d{8}")
_WORDNET_FILE = re.compile(r"(n\d{8})_")
_VALIDATION_FILE = re.compile(r".*_\d{8}")


def must_be_folder(folder: Path) -> None:
    """Raise StudyError if `folder` is not an existing folder."""
    if not folder.is_dir():
        raise StudyError(
            f"the image folder {folder} does not exist, or is not a folder",
            accepted=f"a folder with {_KINDS}",
            todo="correct `images: folder:`",
        )


def is_image(path: Path) -> bool:
    """Return whether a file has the name of an image: a suffix in `SUFFIXES`, and no dot at the beginning."""
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".")


def without_suffix(path: str) -> str:
    """Return a path without its suffix if the suffix is one of `SUFFIXES`; else return the path unchanged."""
    return os.path.splitext(path)[0] if Path(path).suffix.lower() in SUFFIXES else path


def contents(folder: Path) -> tuple[list[Path], list[Path]]:
    """Return the folders and the image files in a folder, sorted by name. Hidden folders and files are left out."""
    must_be_folder(folder)
    folders, files = [], []
    with os.scandir(folder) as entries:
        for entry in entries:
            path = folder / entry.name
            if entry.is_dir() and not entry.name.startswith("."):
                folders.append(path)
            elif not entry.is_dir() and is_image(path):
                files.append(path)
    return sorted(folders), sorted(files)


def from_folder(folder: Path, labels: LabelSet) -> list[Listed]:
    """List the images of a folder, with the labels that the names of folders or files give.

    Raises StudyError if the folder does not exist or has no images, if a name gives no label, or if names use different
    conventions.
    """
    folders, files = contents(folder)
    inside = {inner: contents(inner)[1] for inner in folders}
    if files and any(inside.values()):
        raise StudyError(
            f"the folder {folder} has both images and folders with images, such as {files[0].name} and "
            f"{next(inner for inner, held in inside.items() if held).name}/",
            accepted=_KINDS,
            todo="remove the images, or move them into the folders of their labels",
        )
    if files:
        return _flat(folder, files, labels)
    named = _labels_of([inner.name for inner in folders], folder, labels)
    listed = [
        Listed(path.relative_to(folder).as_posix(), FileImage(path), named[inner.name])
        for inner, held in inside.items()
        for path in held
    ]
    if not listed:
        raise StudyError(
            f"the folder {folder} has no images in folders that are named by labels",
            accepted=f"{_KINDS}; image files have one of the suffixes {', '.join(SUFFIXES)}",
            todo="correct `images: folder:`",
        )
    return listed


def _labels_of(folders: Iterable[str], folder: Path, labels: LabelSet) -> dict[str, int]:
    """Return the label of each folder, by the name of the folder.

    `folders` are the names of all folders in `folder`. Raises StudyError if a name gives no label, or if some names are
    labels and others are numbers.
    """
    given = list(folders)
    by_name = {name: index for index, name in enumerate(labels.labels)}
    numbers = [name for name in given if name not in by_name and name.isascii() and name.isdecimal()]
    unknown = [name for name in given if name not in by_name and name not in numbers]
    if unknown:
        what = "a WordNet id of ImageNet's 1,000 labels" if labels.name == "imagenet" else "a label of this study"
        raise StudyError(
            f"the folder {folder / unknown[0]} is not named by {what}",
            accepted=f"{names(labels.labels, unknown[0])}; or, for all folders, numbers from 0 to {len(labels) - 1}",
            todo="name each folder by its label, or all by numbers of labels; or correct `images: labels:`, or give "
            "`images: list:`",
        )
    if numbers and len(numbers) < len(given):
        named = next(name for name in given if name in by_name)
        raise StudyError(
            f"the folder {folder} has folders named by labels ({named}) and by numbers ({numbers[0]})",
            accepted=f"either labels for all folders, or numbers from 0 to {len(labels) - 1} for all",
        )
    beyond = [name for name in numbers if int(name) >= len(labels)]
    if beyond:
        raise StudyError(
            f"the name of the folder {folder / beyond[0]} is not the number of a label",
            accepted=labels.accepted,
            todo="subtract 1 if the numbers count from 1",
        )
    if numbers:
        return {name: int(name) for name in given}
    return {name: by_name[name] for name in given}


def _flat(folder: Path, files: list[Path], labels: LabelSet) -> list[Listed]:
    """List image files whose names begin with WordNet ids, as in ILSVRC's training set.

    `files` are the image files in `folder`. Raises StudyError if a name gives no label.
    """
    found = {path: _WORDNET_FILE.match(path.name) for path in files}
    plain = [path for path, match in found.items() if match is None]
    if plain and len(plain) == len(files):
        numbered = all(_VALIDATION_FILE.fullmatch(path.stem) for path in files)
        raise StudyError(
            f"the images in {folder} have no labels in their names",
            accepted=_KINDS,
            todo="give `images: truth:`, the ground truth of ILSVRC's validation images"
            if numbered
            else "give `images: list:`, a CSV with lines of file,label",
        )
    if plain:
        named = next(path for path, match in found.items() if match)
        raise StudyError(
            f"the name of {plain[0]} does not begin with a WordNet id, unlike others in its folder ({named.name})",
            accepted=_KINDS,
            todo="rename or move it, or give `images: list:`",
        )
    ids = [label for label in labels.labels if _WORDNET_ID.fullmatch(label)]
    listed = []
    for path, match in found.items():
        label = labels.find(match[1]) if match else None
        if match and label is None:
            raise StudyError(
                f"the name of {path} begins with a WordNet id that is not a label of this study",
                accepted=names(ids, match[1]) if ids else _KINDS,
                todo="rename or move it, or correct `images: labels:`",
            )
        listed.append(Listed(path.name, FileImage(path), label or 0))
    return listed
