"""Image lists: CSV files that say which file has which label, in the dialects that are about."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from study.errors import StudyError
from study.images.folders import SUFFIXES, contents, must_be_folder, without_suffix
from study.images.stored import FileImage, Listed
from study.labels import LabelSet

_FILE = ("file", "filename", "file_name", "image", "path")
_LABEL = ("label", "true_label")
_TARGET = ("target", "target_label", "targeted_label")


@dataclass(frozen=True)
class _Dialect:
    """Where a list has what: columns of files, labels and targets, the first label's number, and the files' suffix."""

    name: str
    file: int = 0
    label: int = 1
    target: int | None = 2
    first: int = 0
    suffix: str = ""
    boxes: bool = False
    heading: bool = True


def read_list(folder: Path, file: Path, labels: LabelSet, *, targets: bool | None) -> list[Listed]:
    """The images of `folder` that the CSV `file` names, with their labels.

    `targets`: whether its target labels are wanted; None: if it has some. The dialects, told by their headings:

    - `file,label[,target]`, with or without a heading; also TransferAttack's `filename,label[,targeted_label]`;
    - NIPS 2017: `ImageId`, `TrueLabel`, `TargetClass`, where labels count from 1 and files are PNGs;
    - Kaggle's `LOC_val_solution.csv`: `ImageId,PredictionString`, whose first word is a WordNet id; files are JPEGs.

    A label is a number or a name of the label set. A file may be named without its suffix, or with one in other case.
    Raises StudyError with the line of what cannot be understood.
    """
    must_be_folder(folder)
    rows = _rows(file, labels)
    dialect, rows = _dialect(rows, targets)
    accepted = _accepted(labels)
    folders: dict[Path, list[Path]] = {}
    listed: list[Listed] = []
    lines: dict[str, int] = {}
    for number, row in rows:
        where = f"{file}, line {number}"
        cells = [cell.strip() for cell in row]
        if not _complete(cells, dialect):
            raise StudyError(f"'{','.join(row)}' is not an image and its label", where=where, accepted=accepted)
        if dialect.target is not None and not (len(cells) > dialect.target and cells[dialect.target]):
            raise StudyError(f"'{cells[dialect.file]}' has no target label", where=where, accepted=accepted)
        path = _find(folder, Path(cells[dialect.file]), dialect.suffix, folders, where)
        image = (Path(cells[dialect.file]).parent / path.name).as_posix()
        if image in lines:
            raise StudyError(
                f"'{image}' is listed twice",
                where=f"{where}, and line {lines[image]}",
                todo="keep one of them",
            )
        lines[image] = number
        label = _label(cells[dialect.label], dialect, labels, where)
        target = None if dialect.target is None else _label(cells[dialect.target], dialect, labels, where)
        if target == label:
            raise StudyError(f"the target label of '{image}' is its true label, {label}", where=where)
        listed.append(Listed(image, FileImage(path), label, target))
    if not listed:
        raise StudyError(f"the image list {file} names no image", accepted=accepted)
    return listed


_Rows = Sequence[tuple[int, list[str]]]


def _accepted(labels: LabelSet) -> str:
    return (
        f"lines of file,label or file,label,target; labels {labels.accepted}; a heading is optional. Or a list with "
        "NIPS 2017's headings (ImageId, TrueLabel, …) or those of Kaggle's LOC_val_solution.csv"
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


def _dialect(rows: _Rows, targets: bool | None) -> tuple[_Dialect, _Rows]:
    """How to read the rows, and the rows without a heading."""
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
        return _Dialect("file,label[,target]", target=2 if wanted else None, heading=False), rows
    if targets and found.target is None:
        # A column behind the last: the first row then says that it lacks its target label.
        found = replace(found, target=len(heading))
    return found if targets is not False else replace(found, target=None), rows[1:]


def _complete(cells: Sequence[str], dialect: _Dialect) -> bool:
    """Whether a row has an image and a label; without a heading it has nothing more than a target."""
    needed = max(dialect.file, dialect.label) + 1
    fits = len(cells) >= needed if dialect.heading else 2 <= len(cells) <= 3
    return fits and bool(cells[dialect.file]) and bool(cells[dialect.label])


def _label(text: str, dialect: _Dialect, labels: LabelSet, where: str) -> int:
    if dialect.boxes:
        words = text.split()
        classes = sorted(set(words[::5]))
        if len(words) % 5 or len(classes) > 1:
            raise StudyError(f"'{text}' is not one label with boxes of four numbers", where=where)
        text = classes[0]
    shifted = str(int(text) - dialect.first) if dialect.first and text.isascii() and text.isdecimal() else text
    label = labels.find(shifted)
    if label is None:
        whose = "ImageNet" if labels.name == "imagenet" else "this study"
        raise StudyError(
            f"'{text}' is not a label of {whose}",
            where=where,
            accepted=f"1 to {len(labels)}: this is a list of {dialect.name}, whose labels count from 1"
            if dialect.first
            else labels.accepted,
            todo="add 1 where the labels count from 0, or rename the columns file, label and target"
            if dialect.first
            else "subtract 1 where the labels count from 1",
        )
    return label


def _find(folder: Path, named: Path, suffix: str, folders: dict[Path, list[Path]], where: str) -> Path:
    """The file that a list means: of that name, also with a suffix or with the suffix in other case."""
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
            f"'{named.as_posix()}' may be any of {', '.join(one.name for one in near)}",
            where=where,
            todo="name the file with its suffix",
        )
    raise StudyError(
        f"the image {path} does not exist",
        where=where,
        accepted=f"there is {same[0].name}, whose suffix is another" if same else None,
        todo="correct the list or the folder",
    )
