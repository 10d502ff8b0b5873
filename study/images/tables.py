"""Parquet files of encoded images and their labels, as Hugging Face's data sets have them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from study.errors import StudyError, names
from study.images.stored import IMAGE_COLUMNS, Listed, ParquetImage
from study.labels import LabelSet

if TYPE_CHECKING:
    import pyarrow as pa

_LABELS = ("label", "labels", "fine_label")
_TARGETS = ("target", "target_label")
_IDS = ("image_id", "id", "file", "file_name", "filename")
_ACCEPTED = (
    "a column `image`, binary or struct{bytes, path}; a column `label`, a whole number or a name; and, if there are "
    "any, columns `target` and `id`"
)
_SPLIT = re.compile(r"(train|test|valid(?:ation)?|val|dev)(?![a-z])", re.IGNORECASE)


def read_parquet(path: Path, labels: LabelSet, *, targets: bool | None) -> list[Listed]:
    """The images of a Parquet file, or of all in a folder.

    `targets`: whether the column `target` is wanted; None: if there is one. An image's id is that of a column
    `image_id`, `id`, `file`, `file_name` or `filename`; else the struct's path, if every image has one of its own;
    else `<file>-<row>`. Raises StudyError where files, columns or labels are not as described.
    """
    rows: list[tuple[ParquetImage, dict[str, Any]]] = []
    named: set[str | None] = set()
    for file in _files(path):
        table, columns = _table(file)
        named.add(columns.get("id"))
        if targets and "target" not in columns:
            raise StudyError(f"{file} has no target labels", accepted=f"a column {' or '.join(_TARGETS)}")
        for row, cells in enumerate(table.to_pylist()):
            rows.append((ParquetImage(file, row), {what: cells[column] for what, column in columns.items()}))
    if not rows:
        raise StudyError(f"{path} has no images", accepted=_ACCEPTED, todo="correct `images: parquet:`")
    if len(named) > 1:
        raise StudyError(f"the files in {path} do not have the same columns", accepted=_ACCEPTED)
    with_targets = targets is not False and any("target" in cells for _, cells in rows)
    listed: list[Listed] = []
    ids: dict[str, ParquetImage] = {}
    for image, (stored, cells) in zip(_ids(rows, with_column=named != {None}), rows, strict=True):
        if image in ids:
            raise StudyError(f"the image id '{image}' stands twice", where=f"{stored}, and {ids[image]}")
        ids[image] = stored
        label = _label(cells["label"], labels, stored)
        target = _label(cells.get("target"), labels, stored) if with_targets else None
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
            todo="put the files of one split into a folder of their own",
        )
    return files


def _table(file: Path) -> tuple[pa.Table, dict[str, str]]:
    """A file's columns but the images' bytes, and which of them is the label, the target, the id and the path."""
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
                        f"{file} has no column `{what}`, but {names(schema.names)}",
                        accepted=_ACCEPTED,
                        todo="rename the column that it is",
                    )
            image = columns.pop("image")
            kind = schema.field(image).type
            inner = [kind.field(index).name for index in range(kind.num_fields)] if pa.types.is_struct(kind) else []
            held = kind.field("bytes").type if "bytes" in inner else kind
            if not (pa.types.is_binary(held) or pa.types.is_large_binary(held) or pa.types.is_binary_view(held)):
                raise StudyError(
                    f"the column `{image}` of {file} is {kind}, not encoded images",
                    accepted=_ACCEPTED,
                    todo="write the bytes of the image files into it",
                )
            leaves = [*columns.values(), *([f"{image}.path"] if "path" in inner else [])]
            table = opened.read(columns=leaves)
    except (OSError, pa.ArrowException) as error:
        raise StudyError(
            f"{file} cannot be read: {str(error).splitlines()[0]}",
            accepted=_ACCEPTED,
            todo="fetch the file again, or correct `images: parquet:`",
        ) from None
    if "path" in inner:
        columns["path"] = image
    return table, columns


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


def _label(cell: Any, labels: LabelSet, stored: ParquetImage) -> int:
    found = None
    if isinstance(cell, str):
        found = labels.find(cell)
    elif isinstance(cell, int) and not isinstance(cell, bool) and 0 <= cell < len(labels):
        found = cell
    if found is None:
        whose = "ImageNet" if labels.name == "imagenet" else "this study"
        raise StudyError(
            f"'{cell}' is not a label of {whose}",
            where=str(stored),
            accepted=labels.accepted,
            todo="use a split that has labels" if cell in (None, -1) else "subtract 1 where the labels count from 1",
        )
    return found
