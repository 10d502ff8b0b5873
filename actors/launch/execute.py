"""The third step of a launch: executes the attack runs and the probes of the plan."""

from __future__ import annotations

from collections.abc import Sequence

from actors.execution.attack_runs import AttackRuns
from actors.execution.clean_images import CleanImages
from actors.execution.driver import Outcome, Progress, drive
from actors.execution.matched_budgets import references
from actors.execution.probe_runs import ProbeRuns, ProbeWriters
from actors.execution.row_sink import RowSink
from actors.execution.runtime import Runtime
from actors.launch import unit_filter
from actors.launch.prepare import PreparedLaunch
from actors.launch.progress import unit_progress
from actors.launch.provenance import Provenance
from actors.launch.study_plan import StudyPlan
from study.events.observer import Started
from study.geometry import store as probe_store
from study.images.image_sets import Candidate
from study.planning import spec_diff
from study.planning.plan import Plan
from study.results import current_plan, scanning
from study.results.kept_images import KeepingWriter, KeptImages
from study.results.writer import Writer
from study.terminal.screen import counted


def execute(launch: PreparedLaunch, plan: StudyPlan, candidates: Sequence[Candidate], runtime: Runtime) -> Outcome:
    """Execute the unfinished units of the plan, or of the part that `--only` and `--limit` select.

    A unit is one attack run on one shard of the images. Probes are executed after the attack runs, unless only a part
    of the plan is selected. Raises StudyError if the backend is gone, an image cannot be read, or the run folder cannot
    be read or written.
    """
    spec, folder, say = launch.spec, launch.folder, runtime.display.say
    done = scanning.done(folder.path)
    others = current_plan.record(plan.attacks, done, folder)
    if others:
        are = "is not in the plan: reports omit it" if others == 1 else "are not in the plan: reports omit them"
        say(f"{counted(others, 'attack run')} with rows {are}")
    kept = KeptImages(folder)
    todo = unit_filter.chosen(plan.attacks, done, launch.options.only, launch.options.limit)
    whole = todo is done
    progress = unit_progress(plan.attacks, done, kept.units)
    if not whole:
        progress = _of_part(progress, unit_progress(plan.attacks, todo))
    say(_plan_line(plan.attacks, progress.left))
    spec_diff.must_be_there(plan.selection, candidates)
    if spec.run.keep_images and not all(craft.keepable for craft in plan.attacks.crafts.values()):
        say("attacks with a search of the minimal RMSD or precomputed images keep none: they run again for new targets")
    metadata = Provenance(spec, runtime.scheduler)
    make = KeepingWriter if spec.run.keep_images else Writer
    writer = make(folder, flush_seconds=spec.run.flush_seconds, metadata=metadata)
    files = {one.image: one.file for one in candidates}
    images = CleanImages(plan.attacks, files, runtime.backend, runtime.budgets)
    runtime.display.started(_started(launch, plan, progress, runtime))
    attacks = AttackRuns(
        plan.attacks,
        images,
        RowSink(plan.attacks, writer, images, runtime.backend),
        runtime,
        progress=progress,
        done=todo,
        rmsd=scanning.rmsd_by_image(folder.path, references(plan.attacks)),
        kept=kept,
        whole=whole,
    )
    outcome = attacks.outcome
    outcome.interrupted = drive(attacks, runtime)
    shown = f", {outcome.shown} shown to targets from kept images" if spec.run.keep_images or outcome.shown else ""
    say(f"{counted(outcome.crafted, 'unit')} crafted{shown}")
    if spec.geometry and outcome.interrupted is None and whole:
        writers = ProbeWriters(folder, spec.run.flush_seconds, metadata)
        finished = probe_store.done(folder.path, spec.geometry)
        probes = ProbeRuns(plan.probes, images, writers, runtime, finished)
        outcome.interrupted = drive(probes, runtime)
        outcome.failures += probes.outcome.failures
    return outcome


def _of_part(whole: Progress, part: Progress) -> Progress:
    """Return the progress of a launch that runs only a part of the plan.

    Unfinished units outside the part are not counted. `whole`: the progress of the whole plan. `part`: the progress of
    the part.
    """
    totals = {name: whole.finished[name] + part.totals[name] - part.finished[name] for name in part.totals}
    return Progress(totals, whole.finished, part.left)


def _plan_line(plan: Plan, left: int) -> str:
    crafts, shards = len(plan.crafts), len(plan.shards)
    return (
        f"plan: {counted(crafts, 'attack run')} x {counted(shards, 'shard')} = {counted(crafts * shards, 'unit')}, "
        f"{left:,} left to do"
    )


def _started(launch: PreparedLaunch, plan: StudyPlan, progress: Progress, runtime: Runtime) -> Started:
    return Started(
        plan=plan.attacks,
        folder=str(launch.folder.path),
        models=plan.selection.models,
        totals=progress.totals,
        finished=progress.finished,
        left=progress.left,
        workers=runtime.scheduler.workers,
        device=runtime.scheduler.device,
        backend=runtime.backend.name,
    )
