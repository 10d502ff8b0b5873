"""The second step of a launch: the clean pass, which selects images and records the predictions of each model."""

from __future__ import annotations

from collections.abc import Sequence

from actors.execution import clean_pass
from actors.execution.runtime import Runtime
from actors.launch.prepare import PreparedLaunch
from study.images.image_sets import Candidate
from study.images.selection import Selection
from study.planning import resume, spec_diff


def select(launch: PreparedLaunch, candidates: Sequence[Candidate], runtime: Runtime) -> Selection:
    """Return the selected images and the records of models, after recording both in the run folder.

    If earlier launches have selected images, only what the spec adds is selected now. Otherwise the clean pass (every
    model predicts candidate images) selects all images. Raises StudyError if too few images are admitted or if a model
    cannot predict, and Interrupted if a signal comes.
    """
    if launch.update is not None:
        return launch.update.carry_out(candidates, runtime)
    selection = clean_pass.run(launch.spec, candidates, runtime)
    resume.record(launch.spec, selection, launch.folder, spec_diff.listing(launch.spec, candidates))
    return selection
