"""Compare a changed spec with its run folder.

Additions and removals are accepted. Changes that would alter existing rows are errors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from study.errors import StudyError
from study.images.image_sets import Candidate, Ranked
from study.images.selection import Selection
from study.planning.resume import (
    as_begun,
    first_difference,
    must_be_current,
    must_have_spec,
    predicted_candidates,
    spec_at,
    spec_of,
)
from study.reproducibility.hashing import digest, same
from study.spec.schema import Spec
from study.spec.spec_file import SpecFile
from study.storage.run_folder import RunFolder

_ONE = {"models": "model", "attacks": "attack", "experiments": "experiment", "geometry": "probe"}
_FREE = {*_ONE, "seeds"}
"""The sections whose entries a changed spec may add or remove."""
_SHOWN_SETS = 4
"""Largest number of new source sets that a message names."""
_ELSEWHERE = "launch into a new folder with --output, or give the study another name"


@dataclass(frozen=True)
class Changes:
    """The accepted differences between a spec and the spec of its run folder.

    Attributes:
        added: Names that only the new spec has, by section.
        removed: Names that the new spec no longer has, by section.
        altered: Other changes, as text.
    """

    added: Mapping[str, Sequence[str]] = field(default_factory=dict)
    removed: Mapping[str, Sequence[str]] = field(default_factory=dict)
    altered: Sequence[str] = ()

    def __bool__(self) -> bool:
        return bool(any(self.added.values()) or any(self.removed.values()) or self.altered)

    def line(self) -> str:
        """Return the changes as one line of text.

        An example is `2 new models (d, e), 1 new attack (fgsm); removed: model c (their rows stay)`.
        """
        new = [f"{_count(section, names)} ({', '.join(names)})" for section, names in self.added.items() if names]
        gone = [f"{_ONE[section]} {', '.join(names)}" for section, names in self.removed.items() if names]
        parts = [", ".join([*new, *self.altered])] if new or self.altered else []
        parts += [f"removed: {'; '.join(gone)} (their rows stay)"] if gone else []
        return "; ".join(parts)


def changes(file: SpecFile, folder: RunFolder) -> Changes:
    """Return the accepted differences between a spec and the spec of its run folder.

    Raises StudyError, with the place in the spec, for a change that would alter existing rows or the selection. Raises
    StudyError also if the run folder has an older format, or has results but lacks the spec, models or images.
    """
    must_have_spec(folder)
    if not folder.begun:
        return Changes()
    file = as_begun(file, folder)
    theirs, ours = spec_of(folder), file.spec
    must_be_current(theirs, folder)
    there, here = theirs.identity(), ours.identity()
    _same(file, folder, _fixed(theirs, there), _fixed(ours, here))
    for path in (folder.spec, *folder.earlier_specs):
        earlier = there if path == folder.spec else spec_at(path).identity()
        for section in ("models", "attacks", "geometry"):
            for name in [one for one in here[section] if one in earlier[section]]:
                _same(file, folder, earlier[section][name], here[section][name], (section, name))
    added = {one: [name for name in here[one] if name not in there[one]] for one in _ONE}
    removed = {one: [name for name in there[one] if name not in here[one]] for one in _ONE}
    altered = [
        f"experiment {name} changed"
        for name in here["experiments"]
        if name in there["experiments"] and here["experiments"][name] != there["experiments"][name]
    ]
    altered += [
        line
        for name in here["experiments"]
        if here["experiments"][name] == there["experiments"].get(name) and (line := _new_sources(theirs, ours, name))
    ]
    if here["seeds"] != there["seeds"]:
        altered.append(f"seeds {_shown(ours.seeds or (ours.seed,))} in place of {_shown(theirs.seeds or (ours.seed,))}")
    if here["images"]["count"] != there["images"]["count"]:
        altered.append(f"images.count {_many(ours)} in place of {_many(theirs)}")
    if here["images"]["targets"] != there["images"]["targets"]:
        altered.append("images.targets in another form")
    return Changes(added, removed, altered)


def _fixed(spec: Spec, identity: Mapping[str, Any]) -> dict[str, Any]:
    """Return the part of a spec that must stay equal.

    This is the identity without models, attacks, experiments, probes, seeds and images.count.
    """
    kept = {key: value for key, value in identity.items() if key not in _FREE}
    images = {key: value for key, value in kept["images"].items() if key != "count"}
    rule = spec.images.targets
    if isinstance(rule, Ranked):
        images["targets"] = {"rank": rule.rank, "by": list(rule.by or spec.predicting_sources())}
    return {**kept, "images": images}


def _same(file: SpecFile, folder: RunFolder, theirs: Any, ours: Any, at: tuple[str, ...] = ()) -> None:
    if same(theirs, ours):
        return
    place, there, here = first_difference(theirs, ours, ".".join(at))
    if place == "images.targets.by":
        todo = f"write `by: {there}` under `targets`, so that the same models rank target labels as before"
    elif at:
        todo = f"give the changed {_ONE[at[0]]} another name, so that it is added; or {_ELSEWHERE}"
    else:
        todo = _ELSEWHERE
    raise StudyError(
        f"the run folder {folder.path} belongs to another spec: {place} is {there} there, and {here} in this spec",
        where=file.where(*place.split(".")),
        accepted="more images; changed experiments; more or fewer models, attacks, experiments, probes and seeds; "
        "other values in run, tracking and findings; other paths of the same data; other limits of services",
        todo=todo,
    )


def _new_sources(theirs: Spec, ours: Spec, experiment: str) -> str:
    """Return a text that names the new source sets of an experiment which has not changed itself; empty without any.

    A new model becomes a source under the rules `each`, `leave-one-out` and `all`, and each new source set is attacked.
    """
    known = theirs.source_sets(theirs.experiments[experiment])
    new = [one for one in ours.source_sets(ours.experiments[experiment]) if one not in known]
    if not new:
        return ""
    shown = [" + ".join(one) for one in new[:_SHOWN_SETS]] + ["..."] * (len(new) > _SHOWN_SETS)
    return f"experiment {experiment} has {len(new)} new source set{'' if len(new) == 1 else 's'} ({', '.join(shown)})"


def _count(section: str, names: Sequence[str]) -> str:
    return f"{len(names)} new {_ONE[section]}{'' if len(names) == 1 else 's'}"


def _shown(seeds: Sequence[int]) -> str:
    return ", ".join(map(str, seeds))


def _many(spec: Spec) -> str:
    return "all" if spec.images.count is None else str(spec.images.count)


def listing(spec: Spec, found: Sequence[Candidate]) -> str | None:
    """Return a digest of the ids of all candidate images.

    Return None if `images.count` is set, because models then predict only some of the candidates.
    """
    return digest(sorted(one.image for one in found)) if spec.images.count is None else None


def unasked(spec: Spec, selection: Selection) -> list[str]:
    """Return the names of the models that the clean pass must still call.

    Such a model has no digest yet, or it predicts images but lacks the prediction of a selected image.
    """
    images = [one for shard in selection.shards for one in shard.images]
    return [
        name
        for name, model in spec.models.items()
        if name not in selection.models or not (model.source_only or all(name in one.clean for one in images))
    ]


def more_images(file: SpecFile, selection: Selection, found: Sequence[Candidate] | None, folder: RunFolder) -> bool:
    """Return whether the spec asks for more images than are selected. Raises StudyError if it asks for fewer.

    The number that the recorded spec asks for is never refused.

    `found` are the images of the image set; None if the image set is unavailable. Only a spec without `images.count`,
    which asks for all images, needs `found`.
    """
    wanted, there = file.spec.images.count, sum(len(shard.images) for shard in selection.shards)
    if wanted is None:
        known = predicted_candidates(folder)
        return found is not None and known is not ... and known != listing(file.spec, found)
    if wanted < there and wanted != spec_of(folder).images.count:
        raise StudyError(
            f"images.count is {wanted}, but {there} images are already selected in {folder.path}",
            where=file.where("images", "count"),
            accepted=f"{there} and more",
            todo=f"leave images.count at {there} and filter images when you analyse rows, or launch into a new folder "
            "with --output",
        )
    return wanted > there


def must_be_there(selection: Selection, found: Sequence[Candidate]) -> None:
    """Raise StudyError if a selected image is missing from the image set `found`, or has another label there."""
    known = {one.image: one for one in found}
    images = [one for shard in selection.shards for one in shard.images]
    missing = [one.image for one in images if one.image not in known]
    if missing:
        raise StudyError(
            f"selected images are no longer in the image set: {len(missing)}, such as {missing[0]}",
            todo="restore these images, or launch into a new folder with --output",
        )
    for one in images:
        now = known[one.image]
        for what, old, new in (("label", one.label, now.label), ("target label", one.target_label, now.target_label)):
            if new is not None and old != new:
                raise StudyError(
                    f"the {what} of the image {one.image} was {old} when it was selected, and is {new} now",
                    todo=f"restore the old {what}, or launch into a new folder with --output",
                )
