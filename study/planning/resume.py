"""Resume a run folder: check that it belongs to the same study, and read and write its spec, models and images.

All commands read these records of a run through this module. It checks the digests of models and images before it uses
them, except for commands that look for errors in a run. It checks the digest of the spec before a launch writes.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from hashlib import sha256
from types import EllipsisType
from typing import Any

import polars as pl
from pydantic import TypeAdapter

from study.errors import StudyError, first_line
from study.images.selection import Selection, from_frame, to_frame
from study.reproducibility.hashing import same
from study.spec.loading import read_resolved
from study.spec.schema import FORMAT, Spec
from study.spec.spec_file import SpecFile
from study.storage import json_file
from study.storage.paths import StoragePath
from study.storage.run_folder import RunFolder

_COPY = "restore it from a copy, or launch into a new folder with --output"
_MODELS = TypeAdapter(dict[str, dict[str, Any]])


def must_have_spec(folder: RunFolder) -> None:
    """Raise StudyError if the folder has results, but lacks the spec, models or images."""
    if not folder.begun and folder.results.is_dir() and any(folder.results.iterdir()):
        raise StudyError(
            f"{folder.path} has results, but lacks a file that a launch writes before them: the spec, models or images",
            todo="choose another folder with --output",
        )


def must_be_current(theirs: Spec, folder: RunFolder, todo: str = "launch into a new folder with --output") -> None:
    """Raise StudyError if the run folder has an older format.

    The ids of attack runs differ between formats, so every unit (one attack run on one shard) would run again. `theirs`
    is the spec of the folder, and `todo` the advice in the message.
    """
    if theirs.format < FORMAT:
        raise StudyError(
            f"the run folder {folder.path} has format {theirs.format}, but this version writes format {FORMAT}: the "
            "ids of attack runs differ, so every image would be attacked again",
            accepted="every command that only reads, such as `study show`, `report`, `compare`, `verify`",
            todo=todo,
        )


def same_study(file: SpecFile, folder: RunFolder) -> None:
    """Raise StudyError if the folder belongs to another spec, has an older format, or has results without a spec."""
    must_have_spec(folder)
    if not folder.begun:
        return
    file = as_begun(file, folder)
    recorded_spec = spec_of(folder)
    must_be_current(recorded_spec, folder, "name only the folder, without a spec: the folder contains its own spec")
    theirs, ours = recorded_spec.identity(), file.spec.identity()
    if not same(theirs, ours):
        place, there, here = first_difference(theirs, ours)
        raise StudyError(
            f"the run folder {folder.path} belongs to another spec: {place} is {there} there, and {here} in this spec",
            where=file.where(*place.split(".")),
            todo="if this spec only adds to the study, launch it first; otherwise name the run folder of this spec",
        )


def as_begun(file: SpecFile, folder: RunFolder) -> SpecFile:
    """Return the spec with `numerics.precision: auto` replaced by the precision that the first launch chose."""
    if not folder.begun or file.spec.numerics.precision != "auto":
        return file
    chosen = spec_of(folder).numerics.precision
    return file.with_numerics(file.spec.numerics.model_copy(update={"precision": chosen}))


def spec_of(folder: RunFolder) -> Spec:
    """Return the resolved spec of a run, which a launch has written into the run folder."""
    return spec_at(folder.spec)


def spec_at(path: StoragePath) -> Spec:
    """Return the resolved spec at `path`, which a launch has written. Raises StudyError if the file is damaged."""
    try:
        return read_resolved(path.read_text(encoding="utf-8"), str(path))
    except StudyError as error:
        raise StudyError(
            f"{path} is damaged: {error.what}", where=error.where, accepted=error.accepted, todo=_COPY
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise StudyError(f"{path} is damaged: {first_line(error)}", todo=_COPY) from None


def first_difference(theirs: Any, ours: Any, place: str = "") -> tuple[str, str, str]:
    """Return the place of the first difference between two values, and what each value has at this place, as text."""
    if isinstance(theirs, dict) and isinstance(ours, dict):
        for key in dict.fromkeys((*theirs, *ours)):
            there, here = theirs.get(key, ...), ours.get(key, ...)
            if not same(there, here):
                return first_difference(there, here, f"{place}.{key}" if place else str(key))
    shown = ["absent" if value is ... else json.dumps(value) for value in (theirs, ours)]
    return place, shown[0], shown[1]


def selected(folder: RunFolder) -> Selection | None:
    """Return the selection of an earlier launch; None if no clean pass has ended yet.

    Raises StudyError if it is damaged.
    """
    return _selection(folder, *recorded(folder)) if folder.begun else None


def as_it_lies(folder: RunFolder) -> Selection:
    """Return the selection of a run without checking digests, for commands that look for errors in the run.

    Raises StudyError if the selection cannot be read.
    """
    try:
        return _selection(folder, folder.models.read_bytes(), folder.images.read_bytes())
    except OSError as error:
        raise _unreadable_files(folder, error) from error


def recorded(folder: RunFolder) -> tuple[bytes, bytes]:
    """Return the bytes of `models.json` and `images.parquet`.

    Raises StudyError if a file cannot be read, or if its digest differs from the recorded digest.
    """
    for last in (False, True):
        try:
            contents = folder.models.read_bytes(), folder.images.read_bytes()
        except OSError as error:
            raise _unreadable_files(folder, error) from error
        changed = _changed(_known(folder), zip((folder.models, folder.images), contents, strict=True))
        if not changed:
            return contents
        # A launch may have extended a file after the recorded digests were read, so try a second time.
        if last:
            raise _not_as_written(changed)
    raise AssertionError("the second attempt returns or raises")


def must_be_intact(folder: RunFolder, say: Callable[[str], None]) -> None:
    """Raise StudyError if the digest of spec, models or images differs from the recorded one. Call this before writing.

    If the run folder has no digests, `say` prints a note.
    """
    if not folder.begun:
        return
    changed = not_as_written(folder)
    if changed:
        raise _not_as_written(changed)
    if not folder.digests.is_file():
        say(
            f"{folder.digests.name} is missing: changes of {folder.images.name} and {folder.models.name} cannot "
            "be detected; their digests are recorded now"
        )


def not_as_written(folder: RunFolder) -> list[StoragePath]:
    """Return the paths of spec, models and images whose digests differ from the recorded ones."""
    there = [path for path in (folder.spec, folder.models, folder.images) if path.is_file()]
    return _changed(_known(folder), ((path, path.read_bytes()) for path in there))


def _changed(
    known: Mapping[str, str | list[str] | None], files: Iterable[tuple[StoragePath, bytes]]
) -> list[StoragePath]:
    """Return the paths of the files whose digest differs from the digest in `known`.

    A file without a digest in `known` is left out. While a launch extends a file, both the old and the new digest are
    valid.
    """
    found = []
    for path, content in files:
        good = known.get(path.name)
        if good is not None and _digest(content) not in ([good] if isinstance(good, str) else good):
            found.append(path)
    return found


def _not_as_written(changed: Sequence[StoragePath]) -> StudyError:
    have = "has" if len(changed) == 1 else "have"
    return StudyError(
        f"{' and '.join(path.name for path in changed)} {have} changed since the launch: the digest differs",
        where=", ".join(map(str, changed)),
        todo=_COPY,
    )


def _unreadable_files(folder: RunFolder, error: Exception) -> StudyError:
    return StudyError(f"{folder.images} or {folder.models.name} is damaged: {first_line(error)}", todo=_COPY)


def _selection(folder: RunFolder, models: bytes, images: bytes) -> Selection:
    try:
        known = _MODELS.validate_json(models, strict=True)
        return Selection(from_frame(pl.read_parquet(io.BytesIO(images))), known)
    except (ValueError, KeyError, TypeError, pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        raise _unreadable_files(folder, error) from error


def record(spec: Spec, selection: Selection, folder: RunFolder, candidates: str | None = None) -> None:
    """Write the spec, the models and the images of a new run. `candidates` is recorded with them.

    The images are written last: once they exist, the folder belongs to this spec. `candidates` is a digest of the ids
    of all images in the image set if models have predicted all of them; None otherwise.
    """
    folder.write_text(folder.spec, spec.text())
    models, images = _files(selection)
    folder.publish(folder.models, models)
    if selection.unreadable:
        folder.write_json(folder.unreadable, selection.unreadable)
    files = {folder.spec: spec.text().encode(), folder.models: models, folder.images: images}
    digests = {path.name: _digest(content) for path, content in files.items()}
    folder.write_json(folder.digests, {**digests, "candidates": candidates})
    folder.publish(folder.images, images)


def extend(spec: Spec, selection: Selection, folder: RunFolder, candidates: str | EllipsisType | None = ...) -> None:
    """Replace the spec of a run by a spec with additions or removals, and write the selection.

    The caller must hold the lease of the run folder. `candidates` is as for `record`; if it is ..., the recorded value
    stays. A spec with an equal identity is not replaced. A replaced spec is kept as `spec-<n>.yaml`. Raises StudyError
    if a recorded file is damaged.

    If the process dies after some files are written, the folder stays valid, and the next launch continues. For this,
    models and images only grow, the spec is written last, and until then both the old and the new digests are valid.
    """
    models, images = _files(selection)
    known = _known(folder)
    changed = not same(spec_of(folder).identity(), spec.identity())
    paths = (folder.spec, folder.models, folder.images)
    there = {path: path.read_bytes() for path in paths}
    contents = dict(zip(paths, (spec.text().encode() if changed else there[folder.spec], models, images), strict=True))
    damaged = _changed(known, there.items())
    if damaged:
        raise _not_as_written(damaged)
    new = {path.name: _digest(content) for path, content in contents.items()}
    if there != contents:
        both: dict[str, Any] = dict(known)
        for path, content in there.items():
            old = known.get(path.name) or _digest(content)
            both[path.name] = list(dict.fromkeys([*([old] if isinstance(old, str) else old), new[path.name]]))
        folder.write_json(folder.digests, both)
    if any(there[path] != contents[path] for path in (folder.models, folder.images)):
        folder.publish(folder.models, models)
        if selection.unreadable:
            folder.write_json(folder.unreadable, {**_unreadable(folder), **selection.unreadable})
        folder.publish(folder.images, images)
    if changed:
        _put_away(folder)
        folder.publish(folder.spec, contents[folder.spec])
    final: dict[str, Any] = {**new, **({"candidates": known["candidates"]} if "candidates" in known else {})}
    if not isinstance(candidates, EllipsisType):
        final["candidates"] = candidates
    if _known(folder) != final:
        folder.write_json(folder.digests, final)


def _put_away(folder: RunFolder) -> None:
    """Keep a copy of the present spec, except if an interrupted launch has already kept one."""
    text, earlier = folder.spec.read_text(encoding="utf-8"), folder.earlier_specs
    if not earlier or earlier[-1].read_text(encoding="utf-8") != text:
        folder.write_text(folder.path / f"spec-{len(earlier) + 1}.yaml", text)


def _files(selection: Selection) -> tuple[bytes, bytes]:
    """Return the content of `models.json` and of `images.parquet`, as bytes."""
    frame = io.BytesIO()
    to_frame(selection.shards).write_parquet(frame)
    return (json.dumps(selection.models, indent=2) + "\n").encode(), frame.getvalue()


def predicted_candidates(folder: RunFolder) -> str | EllipsisType | None:
    """Return a digest of the candidate images' ids if models have predicted all candidate images.

    Return None if models have predicted only some, and ... (Ellipsis) if the run folder does not tell.
    """
    known = _known(folder).get("candidates", ...)
    assert not isinstance(known, list), "only files have several digests"
    return known


def _known(folder: RunFolder) -> dict[str, str | list[str] | None]:
    """Return the recorded digests by file name; empty for a run folder of an early version."""
    try:
        found = json_file.read(folder.digests, dict[str, str | list[str] | None], todo=_COPY)
    except FileNotFoundError:
        return {}
    return found


def _unreadable(folder: RunFolder) -> dict[str, str]:
    try:
        return json_file.read(folder.unreadable, dict[str, str], todo="remove it, and launch again")
    except FileNotFoundError:
        return {}


def _digest(content: bytes) -> str:
    return sha256(content).hexdigest()
