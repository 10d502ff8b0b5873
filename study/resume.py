"""What earlier launches left in a run folder: whether it is the same study, and what was selected for it."""

from __future__ import annotations

import io
import json
from hashlib import sha256
from types import EllipsisType
from typing import Any

import polars as pl

from study import spec as specs
from study.errors import StudyError
from study.images.selection import Selection, from_frame, to_frame
from study.run_folder import RunFolder
from study.spec import Spec, SpecFile
from study.storage import Place


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
    if theirs != ours:
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
    """A resolved spec that a launch has written."""
    return specs.written(path.read_text(encoding="utf-8"), str(path))


def first_difference(theirs: Any, ours: Any, place: str = "") -> tuple[str, str, str]:
    """Where two values first differ, and what stands there in each, for people."""
    if isinstance(theirs, dict) and isinstance(ours, dict):
        for key in dict.fromkeys((*theirs, *ours)):
            there, here = theirs.get(key, ...), ours.get(key, ...)
            if there != here:
                return first_difference(there, here, f"{place}.{key}" if place else str(key))
    shown = ["absent" if value is ... else json.dumps(value) for value in (theirs, ours)]
    return place, shown[0], shown[1]


def selected(folder: RunFolder) -> Selection | None:
    """What an earlier launch selected, if its clean pass came to its end."""
    if not folder.begun:
        return None
    try:
        models: dict[str, dict[str, Any]] = json.loads(folder.models.read_text())
        return Selection(from_frame(pl.read_parquet(io.BytesIO(folder.images.read_bytes()))), models)
    except (OSError, ValueError, pl.exceptions.PolarsError) as error:
        raise StudyError(
            f"{folder.images} or {folder.models.name} is damaged: {str(error).splitlines()[0]}",
            todo="bring the files back from a copy, or launch into a new folder with --output",
        ) from error


def record(spec: Spec, selection: Selection, folder: RunFolder, candidates: str | None = None) -> None:
    """Write spec, models and images; the images last, for once they are there the folder belongs to this spec.

    `candidates` is the digest of the image set, where all of it was asked.
    """
    folder.write_text(folder.spec, spec.text())
    models, images = _files(selection)
    folder.publish(folder.models, models)
    if selection.unreadable:
        folder.write_json(folder.unreadable, selection.unreadable)
    new = {folder.models.name: _digest(models), folder.images.name: _digest(images)}
    folder.write_json(folder.digests, {**new, "candidates": candidates})
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
    both, new = dict[str, Any](known), dict[str, Any]()
    for path, content in ((folder.models, models), (folder.images, images)):
        old = known.get(path.name) or [_digest(path.read_bytes())]
        new[path.name] = _digest(content)
        both[path.name] = list(dict.fromkeys([*([old] if isinstance(old, str) else old), new[path.name]]))
    same = all(path.read_bytes() == content for path, content in ((folder.models, models), (folder.images, images)))
    if not same:
        folder.write_json(folder.digests, both)
        folder.publish(folder.models, models)
        if selection.unreadable:
            folder.write_json(folder.unreadable, {**_unreadable(folder), **selection.unreadable})
        folder.publish(folder.images, images)
    if spec_of(folder).identity() != spec.identity():
        _put_away(folder)
        folder.write_text(folder.spec, spec.text())
    final = {**new, **({"candidates": known["candidates"]} if "candidates" in known else {})}
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


def _known(folder: RunFolder) -> dict[str, Any]:
    """The digests of the files that are there; none in a folder that began before there were any."""
    if not folder.digests.is_file():
        return {}
    try:
        found: dict[str, Any] = json.loads(folder.digests.read_text())
    except (OSError, ValueError) as error:
        raise StudyError(
            f"{folder.digests} is damaged: {str(error).splitlines()[0]}",
            todo="bring it back from a copy, or launch into a new folder with --output",
        ) from None
    return found


def _unreadable(folder: RunFolder) -> dict[str, str]:
    found: dict[str, str] = json.loads(folder.unreadable.read_text()) if folder.unreadable.is_file() else {}
    return found


def _digest(content: bytes) -> str:
    return sha256(content).hexdigest()
