"""What reports read of a run: its spec, rows, models, and how many images were selected."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from study import resume
from study import spec as specs
from study.errors import StudyError
from study.images.clean import Right
from study.images.selection import Selection, to_frame
from study.report import doubts
from study.results import present
from study.run_folder import RunFolder
from study.spec import Spec


@dataclass(frozen=True)
class Finished:
    """A run, or as much of it as there is: `selected` images are to be shown; `models` is what each is, by name, and
    `clean` how often each is right about clean images, as far as that is known."""

    spec: Spec
    rows: pl.LazyFrame
    selected: int
    models: Mapping[str, Mapping[str, Any]]
    clean: Mapping[str, Right]


def begun(spec: Spec, selection: Selection, folder: RunFolder) -> Finished:
    """The run that a launch is at work on, from what it holds: nothing but rows is read again."""
    right = doubts.known(spec, selection.models, lambda: to_frame(selection.shards))
    selected = sum(len(shard.images) for shard in selection.shards)
    return Finished(spec, present.rows(folder), selected, selection.models, right)


def opened(run: str, spec: Path | None = None) -> Finished:
    """The run at `run`. `spec` stands for the one that it began with: it may differ in what changes no row.

    Raises StudyError where there is no run that has begun, its files are damaged, or `spec` is another study's.
    """
    folder = RunFolder(run)
    if not folder.begun:
        raise StudyError(
            f"{folder.path} is not the run folder of a study that has begun: "
            "it lacks spec.yaml, models.json or images.parquet",
            todo="name the folder of a launched study",
        )
    if spec is None:
        used = resume.spec_of(folder)
    else:
        file = specs.load(spec)
        resume.same_study(file, folder)
        used = file.spec
    try:
        models = json.loads(folder.models.read_text(encoding="utf-8"))
        images = io.BytesIO(folder.images.read_bytes())
        selected = pl.read_parquet(images, columns=["image"]).height
        right = doubts.known(used, models, lambda: pl.read_parquet(images))
    except (OSError, ValueError, pl.exceptions.PolarsError) as error:
        raise StudyError(
            f"{folder.images} or {folder.models.name} is damaged: {str(error).splitlines()[0]}",
            todo="bring the files back from a copy, or launch into a new folder with --output",
        ) from error
    return Finished(used, present.rows(folder), selected, models, right)
