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
from study.results import present
from study.run_folder import RunFolder
from study.spec import Spec


@dataclass(frozen=True)
class Finished:
    """A run, or as much of it as there is: `selected` images are to be shown; `models` is what each is, by name."""

    spec: Spec
    rows: pl.LazyFrame
    selected: int
    models: Mapping[str, Mapping[str, Any]]


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
        selected = pl.read_parquet(io.BytesIO(folder.images.read_bytes()), columns=["image"]).height
    except (OSError, ValueError, pl.exceptions.PolarsError) as error:
        raise StudyError(
            f"{folder.images} or {folder.models.name} is damaged: {str(error).splitlines()[0]}",
            todo="bring the files back from a copy, or launch into a new folder with --output",
        ) from error
    return Finished(used, present.rows(folder), selected, models)
