"""A launch of a changed spec into the folder of an earlier one: what has to be asked of models and images first."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import EllipsisType

from actors.execution import clean_pass
from actors.execution.runtime import Runtime
from study.errors import StudyError
from study.images.image_sets import Candidate, candidates
from study.images.selection import Selection
from study.planning import resume
from study.planning.plan import Plan
from study.planning.spec_diff import Changes, listing, more_images, unasked
from study.spec.loading import SpecFile
from study.storage.run_folder import RunFolder


class StudyUpdate:
    """What one launch adds to a run that has begun."""

    def __init__(self, file: SpecFile, folder: RunFolder, changes: Changes, say: Callable[[str], None]) -> None:
        self._file = file
        self._spec = file.spec
        self._folder = folder
        self._changes = changes
        self._say = say
        self._more = False

    def due(self, selection: Selection) -> bool:
        """Whether new models or further images have to be asked before there is a plan. Raises StudyError where fewer
        images are wanted than are selected."""
        found: list[Candidate] | None = None
        if self._spec.images.count is None:
            try:
                found = candidates(self._spec.images, self._spec.seed)
            except StudyError as error:
                self._say(f"whether the image set has grown is not known: {error.what}")
        self._more = more_images(self._file, selection, found, self._folder)
        return self._more or bool(unasked(self._spec, selection))

    def carry_out(self, before: Selection, found: Sequence[Candidate], runtime: Runtime) -> Selection:
        """Ask what is due, and write down what came of it. Raises Interrupted before anything is written."""
        if not (self._more or unasked(self._spec, before)):
            self.settle(before)
            return before
        after = clean_pass.extend(self._spec, before, found, runtime, more=self._more)
        self.settle(after, listing(self._spec, found) if self._more else ...)
        if len(after.shards) > len(before.shards):
            self._tell_anew(before, after)
        return after

    def settle(self, selection: Selection, asked: str | EllipsisType | None = ...) -> None:
        """Put the spec, and what was selected for it, in place of what is there."""
        if self._changes:
            self._say(f"since the last launch: {self._changes.line()}")
        resume.extend(self._spec, selection, self._folder, asked)

    def _tell_anew(self, before: Selection, after: Selection) -> None:
        """Crafts that depend on all images are others once there are more."""
        digests = {name: model["digest"] for name, model in after.models.items()}
        old = Plan(self._spec, digests, before.shards).crafts
        changed = old.keys() - Plan(self._spec, digests, after.shards).crafts.keys()
        if changed:
            attacks = ", ".join(dict.fromkeys(craft.attack for name, craft in old.items() if name in changed))
            self._say(
                f"{len(changed)} crafts depend on all images ({attacks}): they are crafted anew, under new ids; rows "
                "of the old ones stay in results/, and reports leave them out"
            )
