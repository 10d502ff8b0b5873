"""Image lists: CSV files with the names of image files and their labels, in the common formats."""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from study.errors import StudyError
from study.images.folders import SUFFIXES, contents, must_be_folder, without_suffix
from study.images.labels import LabelSet
from study.images.location import FileImage, Listed

_FILE = ("file", "filename", "file_name", "image", "path")
_LABEL = ("label", "true_label")
_WHOLE = re.compile(r"(\d+)\.0+")
_TARGET = ("target", "target_label", "targeted_label")


@dataclass(frozen=True)
class _Dialect:
    """The format of a list.

    Attributes:
        name: The name of the format, for messages.
        file: The column of file names.
        label: The column of labels.
        target: The column of target labels; None if target labels are not read.
        first: The number with which labels begin, 0 or 1.
        suffix: The suffix that is added to file names.
        boxes: Whether the cell of a label also has bounding boxes.
        heading: Whether the first row is a heading.
    """

    name: str
    file: int = 0
    label: int = 1
    target: int | None = 2
    first: int = 0
    suffix: str = ""
    boxes: bool = False
    heading: bool = True


def read_list(
    folder: Path, file: Path, labels: LabelSet, *, targets: bool | None, targeted: bool = True
) -> list[Listed]:
    """List the images of `folder` that the CSV `file` names, with their labels.

    `targets` says whether to read target labels; None reads them if the list has them. A target label that equals the
    true label is an error if `targeted`; otherwise it is dropped. The heading decides the format of the list:

    - `file,label[,target]`, with or without a heading; also TransferAttack's `filename,label[,targeted_label]`;
    - NIPS 2017: `ImageId`, `TrueLabel`, `TargetClass`. Labels count from 1, and files are PNGs;
    - Kaggle's `LOC_val_solution.csv`: `ImageId,PredictionString`. The first word of the second column is a WordNet id,
      and files are JPEGs.

    A label is a number (3, also 3.0) or a name of the label set. A file name may lack its suffix, have the suffix in
    another case, or have backslashes between folders. Raises StudyError with the line that cannot be read.
    """
    must_be_folder(folder)
    rows = _rows(file, labels)
    dialect, rows = _dialect(rows, targets, file, labels)
    accepted = _accepted(labels)
    folders: dict[Path, list[Path]] = {}
    listed: list[Listed] = []
    lines: dict[str, int] = {}
    for number, row in rows:
        where = f"{file}, line {number}"
        cells = [cell.strip() for cell in row]
        if not _complete(cells, dialect):
            raise StudyError(f"'{','.join(row)}' does not name an image and its label", where=where, accepted=accepted)
        if dialect.target is not None and not (len(cells) > dialect.target and cells[dialect.target]):
            raise StudyError(f"'{cells[dialect.file]}' has no target label", where=where, accepted=accepted)
        named = _slashes(folder, cells[dialect.file], dialect.suffix)
        path = _find(folder, named, dialect.suffix, folders, where)
        image = (named.parent / path.name).as_posix()
        if image in lines:
            raise StudyError(
                f"'{image}' is listed twice",
                where=f"{where}, and line {lines[image]}",
                todo="keep one of them",
            )
        lines[image] = number
        label = _label(cells[dialect.label], dialect, labels, where)
        target = None if dialect.target is None else _label(cells[dialect.target], dialect, labels, where)
        if target == label and not targeted:
            target = None
        if target == label:
            raise StudyError(f"the target label of '{image}' is its true label, {label}", where=where)
        listed.append(Listed(image, FileImage(path), label, target))
    if not listed:
        raise StudyError(f"the image list {file} names no image", accepted=accepted)
    return listed


_Rows = Sequence[tuple[int, list[str]]]


def _accepted(labels: LabelSet) -> str:
    return (
        f"lines of file,label or file,label,target; labels {labels.accepted}; a heading is optional; or a list with "
        "the headings of NIPS 2017 (ImageId, TrueLabel, …) or of Kaggle's LOC_val_solution.csv"
    )


def _rows(file: Path, labels: LabelSet) -> _Rows:
    try:
        with file.open(newline="", encoding="utf-8-sig") as opened:
            reader = csv.reader(opened)
            return [(reader.line_num, row) for row in reader if any(cell.strip() for cell in row)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise StudyError(
            f"the image list {file} cannot be read: {reason}",
            accepted=_accepted(labels),
            todo="correct `images: list:`",
        ) from None


def _dialect(rows: _Rows, targets: bool | None, file_of_list: Path, labels: LabelSet) -> tuple[_Dialect, _Rows]:
    """Return the format of the rows, and the rows without the heading."""
    heading = [cell.strip().lower() for cell in rows[0][1]] if rows else []

    def place(*known: str) -> int | None:
        return next((heading.index(one) for one in known if one in heading), None)

    image, truth, boxes = place("imageid"), place("truelabel"), place("predictionstring")
    file, label = place(*_FILE), place(*_LABEL)
    if image is not None and truth is not None:
        found = _Dialect("NIPS 2017", image, truth, place("targetclass"), first=1, suffix=".png")
    elif image is not None and boxes is not None:
        found = _Dialect("LOC_val_solution.csv", image, boxes, None, suffix=".JPEG", boxes=True)
    elif file is not None and label is not None:
        found = _Dialect("file,label[,target]", file, label, place(*_TARGET))
    else:
        columns = max((len(row) for _, row in rows), default=2)
        wanted = targets or (targets is None and columns == 3)
        _refuse_unknown_heading(rows, file_of_list, labels)
        return _Dialect("file,label[,target]", target=2 if wanted else None, heading=False), rows
    if targets and found.target is None:
        # The list has no target labels. Use a column after the last one: the first row is then refused, because this
        # column is empty.
        found = replace(found, target=len(heading))
    return found if targets is not False else replace(found, target=None), rows[1:]


def _refuse_unknown_heading(rows: _Rows, file: Path, labels: LabelSet) -> None:
    """Raise StudyError if the first row is a heading with unknown names.

    This is certain if no word of the first row is a label or a file name, and the second row has a label.
    """
    if len(rows) < 2:
        return
    (number, first), (_, second) = rows[0], rows[1]
    words = [cell.strip() for cell in first]
    if len(words) < 2 or len(second) < 2:
        return
    labelled = any(_index(cell.strip(), labels) is not None for cell in second[1:])
    if labelled and not any(_index(word, labels) is not None or "." in word for word in words):
        raise StudyError(
            f"the heading '{','.join(words)}' has unknown column names",
            where=f"{file}, line {number}",
            accepted=f"{', '.join(_FILE)} for the file; {', '.join(_LABEL)} for the label; {', '.join(_TARGET)} for "
            "the target label",
            todo="rename the columns, or remove the heading",
        )


def _slashes(folder: Path, text: str, suffix: str) -> Path:
    """Return the path that a list names, with `/` in place of backslashes.

    If a file with backslashes in its name exists, the path stays as it is.
    """
    if "\\" in text and not (folder / (text + suffix)).exists():
        text = text.replace("\\", "/")
    return Path(text)


def _index(text: str, labels: LabelSet) -> int | None:
    """Return the index of the label in a cell; None if the cell has no label.

    The cell has the name of a label or a number, which may be written as 3.0.
    """
    found = labels.find(text)
    whole = _WHOLE.fullmatch(text)
    return labels.find(whole[1]) if found is None and whole else found


def _complete(cells: Sequence[str], dialect: _Dialect) -> bool:
    """Return whether a row has an image and a label.

    Without a heading, a row may have only one more cell, for the target.
    """
    needed = max(dialect.file, dialect.label) + 1
    fits = len(cells) >= needed if dialect.heading else 2 <= len(cells) <= 3
    return fits and bool(cells[dialect.file]) and bool(cells[dialect.label])


def _label(text: str, dialect: _Dialect, labels: LabelSet, where: str) -> int:
    if dialect.boxes:
        words = text.split()
        classes = sorted(set(words[::5]))
        if len(words) % 5 or len(classes) > 1:
            raise StudyError(
                f"'{text}' does not give one label",
                where=where,
                accepted="one or more boxes of the same label, each as a label and four numbers",
            )
        text = classes[0]
    number = _WHOLE.sub(r"\1", text)
    shifted = str(int(number) - dialect.first) if dialect.first and number.isascii() and number.isdecimal() else text
    label = _index(shifted, labels)
    if label is None:
        whose = "ImageNet" if labels.name == "imagenet" else "this study"
        raise StudyError(
            f"'{text}' is not a label of {whose}",
            where=where,
            accepted=f"1 to {len(labels)}, or a name: numbers count from 1 in a list of {dialect.name}"
            if dialect.first
            else labels.accepted,
            todo=_instead(text, dialect, labels),
        )
    return label


def _instead(text: str, dialect: _Dialect, labels: LabelSet) -> str:
    """Return advice for a label that the study does not have."""
    meant = labels.meant(text)
    if meant:
        return "write " + " or ".join(f"{labels.labels[index]} ({', '.join(labels.words(index))})" for index in meant)
    if dialect.first:
        return "add 1 to all labels if they count from 0, or rename the columns to file, label and target"
    if text.isascii() and text.isdecimal():
        return "subtract 1 from all labels if they count from 1, or correct `images: labels:`"
    return "write numbers or names of the label set, or give the names as `images: labels:`"


def _find(folder: Path, named: Path, suffix: str, folders: dict[Path, list[Path]], where: str) -> Path:
    """Return the file that a list names. In the list, the suffix may be missing or in another case.

    `folders` caches the image files of each folder. Raises StudyError if there is no such file, or more than one.
    """
    path = folder / named.parent / (named.name + suffix)
    if path.is_file():
        return path
    if path.parent not in folders:
        folders[path.parent] = contents(path.parent)[1] if path.parent.is_dir() else []
    stem = named.name if suffix else without_suffix(named.name)
    same = [one for one in folders[path.parent] if without_suffix(one.name) == stem]
    if not suffix and named.suffix.lower() in SUFFIXES:
        near = [one for one in same if one.suffix.lower() == named.suffix.lower()]
    else:
        near = same
    if len(near) == 1:
        return near[0]
    if near:
        raise StudyError(
            f"'{named.as_posix()}' matches several files: {', '.join(one.name for one in near)}",
            where=where,
            todo="keep one of these files, or write the suffix if the format of the list allows it",
        )
    raise StudyError(
        f"the image {path} does not exist",
        where=where,
        accepted=f"{same[0].name} exists, with another suffix" if same else None,
        todo="correct the list or the folder",
    )
