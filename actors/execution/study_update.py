"""Updates a run folder for a changed spec: finds and executes the clean predictions that are missing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import EllipsisType

from actors.execution import clean_pass
from actors.execution.runtime import Runtime
from study.errors import StudyError
from study.images.image_sets import Candidate, candidates
from study.images.selection import Selection
from study.planning import resume
from study.planning.plan import Plan
from study.planning.spec_diff import Changes, listing, more_images, unasked
from study.spec.schema import Spec
from study.spec.spec_file import SpecFile
from study.storage.run_folder import RunFolder
from study.terminal.screen import counted


@dataclass(frozen=True)
class StudyUpdate:
    """What a launch adds to the selection of earlier launches.

    Attributes:
        spec: The spec of this launch.
        folder: The run folder.
        before: The selection of earlier launches.
        changes: The differences between the recorded spec and `spec`.
        models: Models that have no record, or no predictions of the selected images.
        images: Whether further images must be selected.
    """

    spec: Spec
    folder: RunFolder
    before: Selection
    changes: Changes
    models: tuple[str, ...]
    images: bool

    @property
    def needs_clean_pass(self) -> bool:
        """Whether models must predict clean images before there can be a plan."""
        return self.images or bool(self.models)

    def carry_out(self, found: Sequence[Candidate], runtime: Runtime) -> Selection:
        """Run the clean pass if it is needed, record the selection, and return it.

        `found`: the candidate images. If a signal comes, raises Interrupted before anything is written.
        """
        say = runtime.display.say
        if not self.needs_clean_pass:
            self.record(self.before, say)
            return self.before
        after = clean_pass.extend(self.spec, self.before, found, runtime, more=self.images)
        self.record(after, say, listing(self.spec, found) if self.images else ...)
        if len(after.shards) > len(self.before.shards):
            _report_replaced(self.spec, self.before, after, say)
        return after

    def record(self, selection: Selection, say: Callable[[str], None], asked: str | EllipsisType | None = ...) -> None:
        """Replace the spec and the selection in the run folder. `asked`: as in `resume.extend`."""
        if self.changes:
            say(f"since the last launch: {self.changes.line()}")
        resume.extend(self.spec, selection, self.folder, asked)


def find_update(
    file: SpecFile, folder: RunFolder, before: Selection, changes: Changes, say: Callable[[str], None]
) -> StudyUpdate:
    """Return what a spec adds to the selection `before`. Raises StudyError if the spec asks for fewer images."""
    spec = file.spec
    found: list[Candidate] | None = None
    if spec.images.count is None:
        try:
            found = candidates(spec.images, spec.seed)
        except StudyError as error:
            say(f"the image set cannot be read, so new images in it are not noticed: {error.what}")
    more = more_images(file, before, found, folder)
    return StudyUpdate(spec, folder, before, changes, tuple(unasked(spec, before)), more)


def _report_replaced(spec: Spec, before: Selection, after: Selection, say: Callable[[str], None]) -> None:
    """Print which attack runs must run again, because images were added and the runs depend on all images.

    Such attack runs have new ids.
    """
    digests = {name: model["digest"] for name, model in after.models.items()}
    old = Plan(spec, digests, before.shards).crafts
    changed = old.keys() - Plan(spec, digests, after.shards).crafts.keys()
    if changed:
        attacks = ", ".join(dict.fromkeys(craft.attack for name, craft in old.items() if name in changed))
        runs = "depends on all images and runs" if len(changed) == 1 else "depend on all images and run"
        say(
            f"{counted(len(changed), 'attack run')} ({attacks}) {runs} again, under new ids; the old rows stay in "
            "results/, and reports leave them out"
        )
