"""The first step of a launch: finds the unfinished units, and checks models and images."""

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
from study.reproducibility import user_files
from study.results import current_plan, scanning
from study.spec.own_parts import NO_CODE, UserCode
from study.spec.schema import Spec
from study.spec.spec_file import SpecFile
from study.storage.run_folder import RunFolder
from study.visibility.check import check_measures


@dataclass(frozen=True)
class PreparedLaunch:
    """The state of a launch before workers start.

    Attributes:
        options: The options of the launch.
        file: The spec, with its places in the YAML file.
        folder: The run folder.
        update: What the spec adds to the images and models of earlier launches; None if no images are selected yet.
        plan: The plan; None if the clean pass (all models predict the clean images) must run first.
        left: Number of unfinished units; None if there is no plan yet.
        code: The user's own files that the spec names.
    """

    options: LaunchOptions
    file: SpecFile
    folder: RunFolder
    update: StudyUpdate | None = None
    plan: StudyPlan | None = None
    left: int | None = None
    code: UserCode = NO_CODE

    @property
    def spec(self) -> Spec:
        return self.file.spec

    def on(self, device: str) -> PreparedLaunch:
        """Return this launch with `numerics.precision: auto` replaced by the precision for the workers' `device`."""
        return replace(self, file=self.file.settled(device))


@dataclass(frozen=True)
class Inputs:
    """The candidate images of a launch, and the estimate of the models' memory, which a thread computes."""

    candidates: Sequence[Candidate]
    estimate: MemoryEstimate


def prepare(
    options: LaunchOptions, file: SpecFile, folder: RunFolder, changes: Changes, say: Callable[[str], None]
) -> PreparedLaunch:
    """Compare the spec with its run folder, and return the state of the launch.

    This launch must have claimed the folder. If the study is already complete, the spec is recorded in the folder.
    Raises StudyError if the folder is damaged, or if the spec asks for fewer images than are selected. Also raises the
    errors of `plan_study`.
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
    """Do the quick checks of models and images, so that errors appear before workers start.

    Returns the candidate images, and the estimate of the models' memory, which this function starts. Raises StudyError
    with the place in the spec.
    """
    from study.models.check import check_models

    spec, file, allow_code = launch.spec, launch.file, launch.options.allow_code
    # The checks use the same text of the user's files that workers will run.
    with user_files.carried(launch.code.functions):
        check_models(spec.models, spec.labels, file.where, allow_code=allow_code)
        check_measures(spec.visibility, file.where)
        _check_external(launch)
    try:
        found = candidates(spec.images, spec.seed, targeted=spec.targeted)
    except StudyError as error:
        raise error.located(file.where("images")) from None
    check_requests(spec, min(spec.images.count or len(found), len(found)), file.where)
    estimate = MemoryEstimate(spec, allow_code=allow_code, code=launch.code, debugged=launch.options.inline)
    return Inputs(found, estimate)


def _check_external(launch: PreparedLaunch) -> None:
    """Raise StudyError, with the place in the spec, if an attack of another library cannot run in an experiment.

    The library may not support the goal, the number of sources or the budget.
    """
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
