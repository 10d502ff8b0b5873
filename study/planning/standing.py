"""Compare a spec with its run folder as a launch would: what is new, kept or left to do, and what would be refused."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from study.geometry import store as probe_store
from study.geometry.plan import GeometryPlan
from study.images.image_sets import Candidate
from study.images.selection import Selection
from study.planning import resume, spec_diff
from study.planning.plan import Plan
from study.results import scanning
from study.results.kept_images import KeptImages
from study.spec.schema import Spec
from study.spec.spec_file import SpecFile
from study.storage.run_folder import RunFolder
from study.terminal.screen import counted

_TUNED = "the spec tunes attacks, and only a launch determines the tuned parameters"


def standing_of(
    file: SpecFile, folder: RunFolder, candidates: Callable[[], Sequence[Candidate] | None]
) -> dict[str, Any] | None:
    """Compare a spec with its run folder as a launch does; return None if no launch has selected images yet.

    The result is plain data:
        new: The differences between this spec and the recorded spec, as text; empty without a difference.
        images: The number of selected images.
        more_images: Whether the spec asks for more images than are selected. A launch first selects these images.
        predicts_first: The names of the models that must first predict the selected images.
        units, done, left: The numbers of all, finished and unfinished units of this spec. A unit is one attack run, or
            one probe, on one shard of the selected images.
        partly: Number of unfinished units that have rows for some of their targets. These rows stay.
        outside: Number of finished units that this spec does not ask for. Their rows stay, but reports leave them out.
        unknown: The reason why the comparison is impossible. If this key is present, it is the only one.

    `candidates` lists the image set, or returns None if the image set is unavailable. It is called only if the spec
    asks for all images. Raises the StudyError with which a launch would refuse the folder.
    """
    spec = file.spec
    if folder.begun and any(attack.tune is not None for attack in spec.attacks.values()):
        return {"unknown": _TUNED}
    changes = spec_diff.changes(file, folder)
    selection = resume.selected(folder)
    if selection is None:
        return None
    found = candidates() if spec.images.count is None else None
    more = spec_diff.more_images(file, selection, found, folder)
    return {
        **_counts(spec, selection, folder),
        "new": changes.line(),
        "images": sum(len(shard.images) for shard in selection.shards),
        "more_images": more,
        "predicts_first": spec_diff.unasked(spec, selection),
    }


def _counts(spec: Spec, selection: Selection, folder: RunFolder) -> dict[str, int]:
    # The digest of a new model is not known here. Any placeholder gives ids of attack runs that have no rows yet.
    digests = {name: selection.models.get(name, {"digest": "unknown"})["digest"] for name in spec.models}
    plan, probes = Plan(spec, digests, selection.shards), GeometryPlan(spec, digests, selection.shards)
    done = scanning.done(folder.path)
    kept = KeptImages(folder).units if spec.run.keep_images else None
    unfinished = list(plan.units(done, kept=kept))
    partly = sum(1 for unit in unfinished if unit.targets and unit.id in done)
    left = len(unfinished) + sum(1 for _ in probes.units(probe_store.done(folder.path, spec.geometry)))
    planned = {craft.unit_id(shard) for craft in plan.crafts.values() for shard in plan.shards}
    units = len(planned) + sum(1 for _ in probes.units())
    return {"units": units, "done": units - left, "left": left, "partly": partly, "outside": len(done.keys() - planned)}


def standing_lines(folder: str, standing: Mapping[str, Any] | None) -> list[str]:
    """Return the result of `standing_of` as lines of text for the user.

    `standing` is None if no launch has selected images yet. If a launch would refuse the folder, the only key of
    `standing` is `refused`, with the error.
    """
    if standing is None:
        return [f"{folder}: no launch yet"]
    if "unknown" in standing:
        return [f"{folder}: progress unknown: {standing['unknown']}"]
    if "refused" in standing:
        error = standing["refused"]
        more = [f"  {word}: {error[key]}" for word, key in (("where", "where"), ("to do", "todo")) if error[key]]
        return [f"{folder}: a launch would be refused: {error['what']}", *more]
    on = f" on the {counted(standing['images'], 'image')} selected so far" if standing["more_images"] else ""
    units = counted(standing["units"], "unit")
    partly = f" ({standing['partly']:,} of them have rows for some targets)" if standing["partly"] else ""
    lines = [f"{folder}: {standing['done']:,} of {units}{on} done, {standing['left']:,} left{partly}"]
    if standing["new"]:
        lines.append(f"  since its last launch: {standing['new']}")
    first = [", ".join(standing["predicts_first"])] if standing["predicts_first"] else []
    first += ["further images"] if standing["more_images"] else []
    if first:
        lines.append(f"  first, clean images are predicted: {'; '.join(first)}")
    if standing["outside"]:
        kept = counted(standing["outside"], "finished unit")
        lines.append(f"  kept: {kept} of earlier specs; reports leave out their rows")
    return lines
