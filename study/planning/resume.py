"""What earlier launches left in a run folder: whether it is the same study, and what was selected for it.

Everything that a launch has recorded of a study is read here, by every command, and held against its digest first.
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
from study.spec import schema as specs
from study.spec.loading import SpecFile
from study.spec.schema import Spec
from study.storage import json_file
from study.storage.places import Place
from study.storage.run_folder import RunFolder

_COPY = "bring it back from a copy, or launch into a new folder with --output"
_MODELS = TypeAdapter(dict[str, dict[str, Any]])


def folder_of_nothing(folder: RunFolder) -> None:
    """Refuse a folder that has rows and nothing that says whose."""
    if not folder.begun and folder.results.is_dir() and any(folder.results.iterdir()):
        raise StudyError(
            f"{folder.path} has results, but not the spec, models and images that a launch writes before them",
            todo="choose another folder with --output",
        )


def same_study(file: SpecFile, folder: RunFolder) -> None:
    """Refuse a folder that belongs to another spec, or to nothing of ours."""
    folder_of_nothing(folder)
    if not folder.begun:
        return
    theirs, ours = spec_of(folder).identity(), file.spec.identity()
    if not same(theirs, ours):
        place, there, here = first_difference(theirs, ours)
        raise StudyError(
            f"the run folder {folder.path} belongs to another spec: {place} is {there} there and {here} here",
            where=file.where(*place.split(".")),
            todo="launch it: what is added is run; or name the run folder of this spec",
        )


def spec_of(folder: RunFolder) -> Spec:
    """The resolved spec that a run belongs to."""
    return spec_at(folder.spec)


def spec_at(path: Place) -> Spec:
    """A resolved spec that a launch has written. StudyError where it is damaged."""
    try:
        return specs.written(path.read_text(encoding="utf-8"), str(path))
    except StudyError as error:
        raise StudyError(
            f"{path} is damaged: {error.what}", where=error.where, accepted=error.accepted, todo=_COPY
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise StudyError(f"{path} is damaged: {first_line(error)}", todo=_COPY) from None


def first_difference(theirs: Any, ours: Any, place: str = "") -> tuple[str, str, str]:
    """Where two values first differ, and what stands there in each, for people."""
    if isinstance(theirs, dict) and isinstance(ours, dict):
        for key in dict.fromkeys((*theirs, *ours)):
            there, here = theirs.get(key, ...), ours.get(key, ...)
            if not same(there, here):
                return first_difference(there, here, f"{place}.{key}" if place else str(key))
    shown = ["absent" if value is ... else json.dumps(value) for value in (theirs, ours)]
    return place, shown[0], shown[1]


def selected(folder: RunFolder) -> Selection | None:
    """What an earlier launch selected, if its clean pass came to its end. StudyError where that is damaged."""
    return _selection(folder, *recorded(folder)) if folder.begun else None


def as_it_lies(folder: RunFolder) -> Selection:
    """What images and models say, whatever their digests are: only to look for what is wrong with a run that has begun.

    StudyError where they cannot be read.
    """
    try:
        return _selection(folder, folder.models.read_bytes(), folder.images.read_bytes())
    except OSError as error:
        raise _unreadable_files(folder, error) from error


def recorded(folder: RunFolder) -> tuple[bytes, bytes]:
    """The contents of `models.json` and `images.parquet`. StudyError where one is not as it was written."""
    for last in (False, True):
        try:
            contents = folder.models.read_bytes(), folder.images.read_bytes()
        except OSError as error:
            raise _unreadable_files(folder, error) from error
        changed = _changed(_known(folder), zip((folder.models, folder.images), contents, strict=True))
        if not changed:
            return contents
        # A launch may have added to a file between the reading of its digest and of itself.
        if last:
            raise _not_as_written(changed)
    raise AssertionError("the second look returns or raises")


def must_be_intact(folder: RunFolder, say: Callable[[str], None]) -> None:
    """Before a run is written to: StudyError where spec, models or images are not as they were written."""
    if not folder.begun:
        return
    changed = not_as_written(folder)
    if changed:
        raise _not_as_written(changed)
    if not folder.digests.is_file():
        say(
            f"{folder.digests.name} is not there: whether {folder.images.name} and {folder.models.name} are as they "
            "were written is not known; their digests are recorded now"
        )


def not_as_written(folder: RunFolder) -> list[Place]:
    """Those of spec, models and images that are there and do not have the digests that were recorded."""
    there = [path for path in (folder.spec, folder.models, folder.images) if path.is_file()]
    return _changed(_known(folder), ((path, path.read_bytes()) for path in there))


def _changed(known: Mapping[str, str | list[str] | None], files: Iterable[tuple[Place, bytes]]) -> list[Place]:
    """Files that have another digest. While a launch adds to one, the digest of the old is as good as the new one."""
    found = []
    for path, content in files:
        good = known.get(path.name)
        if good is not None and _digest(content) not in ([good] if isinstance(good, str) else good):
            found.append(path)
    return found


def _not_as_written(changed: Sequence[Place]) -> StudyError:
    are = "is not as it was written" if len(changed) == 1 else "are not as they were written"
    return StudyError(
        f"{' and '.join(path.name for path in changed)} {are}: the digest is not the one that was recorded",
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
    """Write spec, models and images; the images last, for once they are there the folder belongs to this spec.

    `candidates` is the digest of the image set, where all of it was asked.
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
    """Put a spec that adds or removes in place of the one that is there, with what is selected for it; `candidates` as
    for `record`, left as it is where no image was asked.

    Only for who holds the lease. A death between any two files leaves a folder that is whole and that the next launch
    goes on from: models and images are only ever added to, the spec, which asks for them, comes last, and meanwhile
    the digests of old and new are good. The old spec stays as `spec-<n>.yaml`.
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
    """Keep a copy of the present spec, unless a launch that died has done so."""
    text, earlier = folder.spec.read_text(encoding="utf-8"), folder.earlier_specs
    if not earlier or earlier[-1].read_text(encoding="utf-8") != text:
        folder.write_text(folder.path / f"spec-{len(earlier) + 1}.yaml", text)


def _files(selection: Selection) -> tuple[bytes, bytes]:
    """`models.json` and `images.parquet`."""
    frame = io.BytesIO()
    to_frame(selection.shards).write_parquet(frame)
    return (json.dumps(selection.models, indent=2) + "\n").encode(), frame.getvalue()


def asked(folder: RunFolder) -> str | EllipsisType | None:
    """The digest of the candidates, where all of them were asked; None where only some were; ... where that is not
    recorded."""
    known = _known(folder).get("candidates", ...)
    assert not isinstance(known, list), "only files have several digests"
    return known


def _known(folder: RunFolder) -> dict[str, str | list[str] | None]:
    """The digests of the files that are there; none in a folder that began before there were any."""
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
