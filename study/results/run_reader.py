"""Reads the data of a run that reports need: its spec, rows, models, and selected images."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from study.images.clean_accuracy import Right
from study.images.selection import Selection
from study.planning import resume
from study.report import plausibility
from study.results import current_plan
from study.spec import loading
from study.spec.schema import Spec
from study.storage.no_run import no_run
from study.storage.run_folder import RunFolder


@dataclass(frozen=True)
class RunData:
    """The content of a run that reports need. The run may be incomplete."""

    spec: Spec
    rows: pl.LazyFrame
    selection: Selection
    clean: Mapping[str, Right]
    """The clean accuracy of each model, by name. A model whose clean accuracy is not known is left out."""

    @property
    def selected(self) -> int:
        """The number of selected images."""
        return sum(len(shard.images) for shard in self.selection.shards)

    @property
    def models(self) -> Mapping[str, Mapping[str, Any]]:
        """The record of each model, by name, as in models.json: digest, number of parameters, preprocessing."""
        return self.selection.models


def run_data(spec: Spec, selection: Selection, folder: RunFolder) -> RunData:
    """Return the content of a run whose spec and selected images are given. Other files are read from the folder."""
    clean = plausibility.known(spec, selection.models, lambda: pl.read_parquet(io.BytesIO(folder.images.read_bytes())))
    return RunData(spec, current_plan.rows(folder), selection, clean)


def open_run(run: str, spec: Path | None = None) -> RunData:
    """Return the content of the run in the folder `run`.

    `spec`: the file of a spec that replaces the recorded spec; None for the recorded spec. The two specs may differ
    only in settings that change no row. Raises StudyError if the run has no selected images yet, its files are damaged,
    or `spec` describes another study.
    """
    folder = RunFolder(run)
    if not folder.begun:
        what = f"{folder.path} is not the run folder of a study that has begun"
        raise no_run(folder.path, f"{what}: it lacks spec.yaml, models.json or images.parquet")
    if spec is None:
        used = resume.spec_of(folder)
    else:
        file = resume.as_begun(loading.load(spec), folder)
        resume.same_study(file, folder)
        used = file.spec
    selection = resume.selected(folder)
    assert selection is not None, "a run that has begun has a selection"
    return run_data(used, selection, folder)
