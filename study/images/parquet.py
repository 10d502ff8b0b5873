"""Parquet files of encoded images and labels, in the layout of Hugging Face's data sets."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from study.errors import StudyError, names
from study.images.labels import LabelSet
from study.images.location import IMAGE_COLUMNS, Listed, ParquetImage

if TYPE_CHECKING:
    import pyarrow as pa

_LABELS = ("label", "labels", "fine_label")
_TARGETS = ("target", "target_label")
_NO_LABEL = "use a split that has labels"
_NO_TARGET = "give every image a target label in this column, or none; or set `images: targets: random`"
"""What to do about a cell without a label, or without a target label."""
_IDS = ("image_id", "id", "file", "file_name", "filename")


def _either(columns: Sequence[str]) -> str:
    return " or ".join(f"`{column}`" for column in columns)


_ACCEPTED = (
    f"a column {_either(IMAGE_COLUMNS)}, binary or struct{{bytes, path}}; a column {_either(_LABELS)}, a whole number "
    f"or a name; optionally, a column {_either(_TARGETS)}, and a column {_either(_IDS)}"
)
_HUGGING_FACE = b"huggingface"
"""The key of Hugging Face's metadata in the schema of a Parquet file."""

_SPLIT = re.compile(r"(train|test|valid(?:ation)?|val|dev)(?![a-z])", re.IGNORECASE)


@dataclass(frozen=True)
class _Columns:
    """The columns of a Parquet file.

    `by_use` has the names of columns by use (label, target, id, path). If a column has Hugging Face's type ClassLabel,
    `classes` has the label index of each class number, by the use of the column.
    """

    by_use: Mapping[str, str]
    classes: Mapping[str, Sequence[int]] = field(default_factory=dict)


def read_parquet(path: Path, labels: LabelSet, *, targets: bool | None, targeted: bool = True) -> list[Listed]:
    """List the images of a Parquet file, or of all Parquet files in a folder.

    `targets` says whether to read the column `target`; None reads it if it exists. A target label that equals the true
    label is an error if `targeted`; otherwise it is dropped.

    The id of an image is in a column `image_id`, `id`, `file`, `file_name` or `filename`. Without such a column, it is
    the path in the struct of the image, if all paths are unique; else it is `<file>-<row>`. If a file's metadata map
    numbers to names, as Hugging Face's ClassLabel does, a number means the label with this name.

    Raises StudyError if files, columns or labels do not fit, or a ClassLabel has a name that is not in `labels`.
    """
    rows: list[tuple[ParquetImage, dict[str, Any]]] = []
    named: set[str | None] = set()
    columns_of: dict[Path, Mapping[str, str]] = {}
    for file in _files(path):
        table, known = _table(file, labels)
        columns = columns_of[file] = known.by_use
        named.add(columns.get("id"))
        if targets and "target" not in columns:
            raise StudyError(f"{file} has no target labels", accepted=f"a column {_either(_TARGETS)}")
        for row, cells in enumerate(table.to_pylist()):
            stored = ParquetImage(file, row)
            found = {what: cells[column] for what, column in columns.items()}
            for what, classes in known.classes.items():
                if what == "label" or targets is not False:
                    found[what] = _class(found[what], classes, f"{stored}, column `{columns[what]}`")
            rows.append((stored, found))
    if not rows:
        raise StudyError(f"{path} has no images", accepted=_ACCEPTED, todo="correct `images: parquet:`")
    if len(named) > 1:
        raise StudyError(f"the files in {path} do not all have their ids in the same column", accepted=_ACCEPTED)
    with_targets = targets is not False and any("target" in cells for _, cells in rows)
    listed: list[Listed] = []
    ids: dict[str, ParquetImage] = {}
    for image, (stored, cells) in zip(_ids(rows, with_column=named != {None}), rows, strict=True):
        if image in ids:
            raise StudyError(f"the image id '{image}' occurs twice", where=f"{stored}, and {ids[image]}")
        ids[image] = stored
        columns = columns_of[stored.path]
        label = _label(cells["label"], labels, f"{stored}, column `{columns['label']}`", _NO_LABEL)
        target = None
        if with_targets:
            # A file without this column may be in one folder with a file that has it.
            where = f"{stored}, column `{columns.get('target', _TARGETS[0])}`"
            target = _label(cells.get("target"), labels, where, _NO_TARGET)
        if target == label and not targeted:
            target = None
        if target == label:
            raise StudyError(f"the target label of '{image}' is its true label, {label}", where=str(stored))
        listed.append(Listed(image, stored, label, target))
    return listed


def _files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise StudyError(
            f"{path} does not exist", accepted="a Parquet file or a folder", todo="correct `images: parquet:`"
        )
    files = sorted(one for one in path.iterdir() if one.suffix == ".parquet" and not one.name.startswith("."))
    if not files:
        raise StudyError(f"the folder {path} has no .parquet files", todo="correct `images: parquet:`")
    splits = {match[1].lower() for match in (_SPLIT.match(one.name) for one in files) if match}
    if len(splits) > 1:
        raise StudyError(
            f"the folder {path} has files of more than one split: {', '.join(sorted(splits))}",
            accepted="a file, or a folder with the files of one split",
            todo="put the files of each split into a separate folder",
        )
    return files


def _table(file: Path, labels: LabelSet) -> tuple[pa.Table, _Columns]:
    """Return the table of a file without the bytes of the images, and the uses of its columns."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(file) as opened:
            schema = opened.schema_arrow
            columns = {
                what: next(name for name in known if name in schema.names)
                for what, known in (("image", IMAGE_COLUMNS), ("label", _LABELS), ("target", _TARGETS), ("id", _IDS))
                if set(known) & set(schema.names)
            }
            for what in ("image", "label"):
                if what not in columns:
                    raise StudyError(
                        f"{file} has no column `{what}`; its columns are {names(schema.names)}",
                        accepted=_ACCEPTED,
                        todo=f"if another column holds the {what}, rename it to `{what}`",
                    )
            image = columns.pop("image")
            kind = schema.field(image).type
            inner = [kind.field(index).name for index in range(kind.num_fields)] if pa.types.is_struct(kind) else []
            held = kind.field("bytes").type if "bytes" in inner else kind
            if not (pa.types.is_binary(held) or pa.types.is_large_binary(held) or pa.types.is_binary_view(held)):
                raise StudyError(
                    f"the column `{image}` of {file} has the type {kind}, not encoded images",
                    accepted=_ACCEPTED,
                    todo="store the bytes of the image files in this column",
                )
            leaves = [*columns.values(), *([f"{image}.path"] if "path" in inner else [])]
            table = opened.read(columns=leaves)
    except (OSError, pa.ArrowException) as error:
        raise StudyError(
            f"{file} cannot be read: {str(error).splitlines()[0]}",
            accepted=_ACCEPTED,
            todo="fetch the file again, or correct `images: parquet:`",
        ) from None
    features = _features(schema)
    classes: dict[str, Sequence[int]] = {}
    for what in ("label", "target"):
        if what in columns:
            found = _classes(features.get(columns[what]), labels, file, columns[what])
            if found is not None:
                classes[what] = found
    if "path" in inner:
        columns["path"] = image
    return table, _Columns(columns, classes)


def _features(schema: pa.Schema) -> Mapping[str, Any]:
    """Return Hugging Face's metadata of the columns; empty for a file that another program has written."""
    try:
        metadata = json.loads((schema.metadata or {}).get(_HUGGING_FACE, b"{}"))
        features = metadata["info"]["features"]
    except (ValueError, LookupError, TypeError):
        return {}
    return features if isinstance(features, dict) else {}


def _classes(feature: Any, labels: LabelSet, file: Path, column: str) -> list[int] | None:
    """Return the label index for each number of a ClassLabel column.

    Return None for a column of another type. Return None also if the column has as many names as the study has labels,
    but none of these names is the name of a label: the numbers in the column then count as label indices.
    """
    called = feature.get("names") if isinstance(feature, dict) and feature.get("_type") == "ClassLabel" else None
    if not isinstance(called, list) or not called:
        return None
    found = [labels.named(str(one)) for one in called]
    if len(called) == len(labels) and not any(index is not None for index in found):
        return None
    unknown = [str(name) for name, index in zip(called, found, strict=True) if index is None]
    if unknown:
        raise StudyError(
            f"the column `{column}` of {file} has a class named '{unknown[0]}', which is not a label of this study",
            accepted=_class_names(labels, unknown[0]),
            todo="give the label set of the file in `images: labels:`, or store the names of labels in the column",
        )
    return [index for index in found if index is not None]


def _class_names(labels: LabelSet, given: str) -> str:
    """Return which names of classes a ClassLabel column may have, as text for a message about the name `given`."""
    words = ", or all words of a label, if no other label has the same" if labels.name == "imagenet" else ""
    return (
        f"{names(labels.labels, given)}{words}; case and spaces do not matter; or {len(labels)} names of which none is "
        "the name of a label: then the numbers of classes are those of labels"
    )


def _class(cell: Any, classes: Sequence[int], where: str) -> Any:
    """Return the label index for a cell of a ClassLabel column.

    Cells that are no numbers stay as they are, and so does -1, which stands for an unknown label: `_label` checks them.
    Raises StudyError, with the place `where`, for another number that is not the number of a class.
    """
    if not isinstance(cell, int) or isinstance(cell, bool) or cell == -1:
        return cell
    if not 0 <= cell < len(classes):
        raise StudyError(
            f"'{cell}' is not the number of a class",
            where=where,
            accepted=f"0 to {len(classes) - 1}, the numbers of the classes that the file's metadata names",
            todo="correct this number"
            if cell < 0
            else "subtract 1 if the numbers count from 1, or correct the names of classes in the file's metadata",
        )
    return classes[cell]


def _ids(rows: list[tuple[ParquetImage, dict[str, Any]]], *, with_column: bool) -> list[str]:
    if with_column:
        for stored, cells in rows:
            if cells["id"] is None or not str(cells["id"]):
                raise StudyError("an image has no id", where=str(stored))
        return [str(cells["id"]) for _, cells in rows]
    paths = [(cells.get("path") or {}).get("path") for _, cells in rows]
    if all(paths) and len(set(paths)) == len(paths):
        return [str(path) for path in paths]
    return [f"{stored.path.stem}-{stored.row}" for stored, _ in rows]


def _label(cell: Any, labels: LabelSet, where: str, if_missing: str) -> int:
    """Return the label index for a cell.

    Raises StudyError, with the place `where`, for a cell that is no label. `if_missing` is what to do about an empty
    cell, and about -1, which stands for an unknown label.
    """
    found, number = None, isinstance(cell, int) and not isinstance(cell, bool)
    if isinstance(cell, str):
        found = labels.find(cell)
    elif number and 0 <= cell < len(labels):
        found = cell
    if found is None:
        if cell is None or (number and cell == -1):
            todo = if_missing
        elif number and cell >= len(labels):
            todo = "subtract 1 if the numbers count from 1, or correct `images: labels:`"
        else:
            todo = "correct this cell, or `images: labels:`"
        whose = "ImageNet" if labels.name == "imagenet" else "this study"
        raise StudyError(
            f"'{cell}' is not a label of {whose}",
            where=where,
            accepted=labels.accepted,
            todo=todo,
        )
    return found
