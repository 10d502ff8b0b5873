"""The first step of a launch: find the unfinished units, and check models and images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from actors.execution.study_update import StudyUpdate, find_update
from actors.launch.options import LaunchOptions
from actors.launch.study_plan import StudyPlan, plan_study
from actors.resources.worker_pool import MemoryEstimate
from study.errors import StudyError
from study.images.image_sets import Candidate, candidates
from study.planning import resume
from study.planning.requests import check_requests
from study.planning.spec_diff import Changes
from study.results import current_plan, scanning
from study.spec.own_parts import Code
from study.spec.schema import Spec
from study.spec.spec_file import SpecFile
from study.storage.run_folder import RunFolder


@dataclass(frozen=True)
class PreparedLaunch:
    """The state of a launch before workers start.

    Attributes:
        update: The additions of the spec to the selection of earlier launches; None where nothing is selected yet.
        plan: The plan; None where the clean pass must run first.
        left: Units to do; None where there is no plan yet.
        code: The components of the spec's attacks in the user's own files.
    """

    options: LaunchOptions
    file: SpecFile
    folder: RunFolder
    update: StudyUpdate | None = None
    plan: StudyPlan | None = None
    left: int | None = None
    code: Code = ()

    @property
    def spec(self) -> Spec:
        return self.file.spec

    def on(self, device: str) -> PreparedLaunch:
        """The launch with the precision that `numerics.precision: auto` is on the workers' device."""
        return replace(self, file=self.file.settled(device))


@dataclass(frozen=True)
class Inputs:
    """The candidate images, and the memory estimate, which a thread computes."""

    candidates: Sequence[Candidate]
    estimate: MemoryEstimate


def prepare(
    options: LaunchOptions, file: SpecFile, folder: RunFolder, changes: Changes, say: Callable[[str], None]
) -> PreparedLaunch:
    """Compare the spec with its run folder, which this launch holds. If the study is complete, record this spec.

    Raises StudyError where the folder is damaged, or the spec wants fewer images than are selected.
    """
    selection = resume.selected(folder)
    if selection is None:
        return PreparedLaunch(options, file, folder)
    update = find_update(file, folder, selection, changes, say)
    if update.needs_clean_pass:
        return PreparedLaunch(options, file, folder, update)
    plan = plan_study(file.spec, selection)
    left = plan.left(folder)
    if not left:
        update.record(selection, say)
        current_plan.record(plan.attacks, scanning.done(folder.path), folder)
    return PreparedLaunch(options, file, folder, update, plan, left)


def check_inputs(launch: PreparedLaunch) -> Inputs:
    """Check models and images as far as that is cheap, so that errors appear before workers start.

    Raises StudyError with the place in the spec.
    """
    from study.models.check import check_models

    spec, file, allow_code = launch.spec, launch.file, launch.options.allow_code
    check_models(spec.models, spec.labels, file.where, allow_code=allow_code)
    _check_external(launch)
    try:
        found = candidates(spec.images, spec.seed, targeted=spec.targeted)
    except StudyError as error:
        raise error.located(file.where("images")) from None
    check_requests(spec, min(spec.images.count or len(found), len(found)), file.where)
    return Inputs(found, MemoryEstimate(spec, allow_code=allow_code, debugged=launch.options.inline))


def _check_external(launch: PreparedLaunch) -> None:
    """Raise StudyError, with the place in the spec, where another library's attack cannot run as an experiment asks."""
    spec = launch.spec
    for experiment in spec.experiments.values():
        for name in experiment.attacks:
            attack = spec.attacks[name]
            if attack.external is None:
                continue
            from study.attacks.external.run import check_external

            try:
                for sources in spec.source_sets(experiment):
                    check_external(
                        attack.external,
                        experiment.goal,
                        len(sources),
                        epsilon=attack.budget.levels[0],
                        allow_code=launch.options.allow_code,
                    )
            except StudyError as error:
                raise error.located(launch.file.where("attacks", name)) from None
