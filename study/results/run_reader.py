"""What reports read of a run: its spec, rows, models, and how many images were selected."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from study.errors import StudyError
from study.images.clean_accuracy import Right
from study.images.selection import Selection, to_frame
from study.planning import resume
from study.report import plausibility
from study.results import current_plan
from study.spec import loading
from study.spec.schema import Spec
from study.storage.run_folder import RunFolder


@dataclass(frozen=True)
class Finished:
    """A run, or as much of it as there is."""

    spec: Spec
    rows: pl.LazyFrame
    selection: Selection
    clean: Mapping[str, Right]
    """How often each model is right about clean images, as far as that is known."""

    @property
    def selected(self) -> int:
        """How many images are to be shown."""
        return sum(len(shard.images) for shard in self.selection.shards)

    @property
    def models(self) -> Mapping[str, Mapping[str, Any]]:
        """What each model is, by name."""
        return self.selection.models


def begun(spec: Spec, selection: Selection, folder: RunFolder) -> Finished:
    """The run that a launch is at work on, from what it holds: nothing but rows is read again."""
    right = plausibility.known(spec, selection.models, lambda: to_frame(selection.shards))
    return Finished(spec, current_plan.rows(folder), selection, right)


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
        file = loading.load(spec)
        resume.same_study(file, folder)
        used = file.spec
    selection = resume.selected(folder)
    assert selection is not None, "a run that has begun has selected its images"
    return begun(used, selection, folder)
