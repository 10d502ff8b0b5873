"""What earlier launches left in a run folder: whether it is the same study, and what was selected for it."""

from __future__ import annotations

import io
import json
from hashlib import sha256
from typing import Any

import polars as pl

from study import document as documents
from study import spec as specs
from study.errors import StudyError
from study.images.selection import Selection, from_frame, to_frame
from study.run_folder import RunFolder
from study.spec import Spec, SpecFile


def same_study(file: SpecFile, folder: RunFolder) -> None:
    """Refuse a folder that belongs to another spec, or to nothing of ours."""
    if not folder.begun:
        if folder.results.is_dir() and any(folder.results.iterdir()):
            raise StudyError(
                f"{folder.path} has results, but not the spec, models and images that a launch writes before them",
                todo="choose another folder with --output",
            )
        return
    theirs, ours = spec_of(folder).identity(), file.spec.identity()
    if theirs != ours:
        place, there, here = _first_difference(theirs, ours)
        raise StudyError(
            f"the run folder {folder.path} belongs to another spec: {place} is {there} there and {here} here",
            where=file.where(*place.split(".")),
            todo="launch into a new folder with --output, or give the study another name",
        )


def spec_of(folder: RunFolder) -> Spec:
    """The resolved spec that a run belongs to."""
    return specs.resolve(documents.parse(folder.spec.read_text(encoding="utf-8"), str(folder.spec))).spec


def _first_difference(theirs: Any, ours: Any, place: str = "") -> tuple[str, str, str]:
    if isinstance(theirs, dict) and isinstance(ours, dict):
        for key in dict.fromkeys((*theirs, *ours)):
            there, here = theirs.get(key, ...), ours.get(key, ...)
            if there != here:
                return _first_difference(there, here, f"{place}.{key}" if place else str(key))
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


def record(spec: Spec, selection: Selection, folder: RunFolder) -> None:
    """Write spec, models and images; the images last, for once they are there the folder belongs to this spec."""
    folder.write_text(folder.spec, spec.text())
    models = (json.dumps(selection.models, indent=2) + "\n").encode()
    folder.publish(folder.models, models)
    if selection.unreadable:
        folder.write_json(folder.unreadable, selection.unreadable)
    frame = io.BytesIO()
    to_frame(selection.shards).write_parquet(frame)
    images = frame.getvalue()
    digests = {
        path.name: sha256(content).hexdigest() for path, content in ((folder.models, models), (folder.images, images))
    }
    folder.write_json(folder.digests, digests)
    folder.publish(folder.images, images)
