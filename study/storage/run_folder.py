"""Every path of a run, and the rules under which it is written: one driver, whole files, nothing written over."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from study.errors import StudyError
from study.storage import journal as storage_journal
from study.storage.places import Place, place, storage
from study.storage.s3 import ObjectPath


def _silent(line: str) -> None: ...


class RunFolder:
    """The place of one study: a folder, or a prefix of an object store. Nothing is created until `claim`."""

    def __init__(self, path: str | Place) -> None:
        """`path` is a folder or `s3://bucket/prefix`. Raises StudyError for another address."""
        self.path = place(path)
        self.storage = storage(self.path)

    @property
    def results(self) -> Place:
        """Parquet parts and nothing else."""
        return self.path / "results"

    def geometry(self, probe: str) -> Place:
        """Parquet parts of one probe of the geometry of models, and nothing else."""
        return self.path / "geometry" / probe

    @property
    def spec(self) -> Place:
        """The resolved spec that the folder belongs to."""
        return self.path / "spec.yaml"

    @property
    def earlier_specs(self) -> list[Place]:
        """The specs that this one has taken the place of, the first first."""
        found: list[Place] = []
        while (path := self.path / f"spec-{len(found) + 1}.yaml").is_file():
            found.append(path)
        return found

    @property
    def planned(self) -> Place:
        """The crafts of the present plan, where there are rows of others."""
        return self.path / "planned.json"

    @property
    def kept(self) -> Place:
        """Parquet parts with adversarial images, where the spec says that they are kept."""
        return self.path / "kept"

    @property
    def images(self) -> Place:
        """What was selected, with the clean predictions of every model."""
        return self.path / "images.parquet"

    @property
    def models(self) -> Place:
        """Digest, size and parameters of every model, as loaded."""
        return self.path / "models.json"

    @property
    def arithmetic(self) -> Place:
        """What workers computed with: processors, releases, what their environment said of rounding."""
        return self.path / "arithmetic.json"

    @property
    def digests(self) -> Place:
        """SHA-256 of `spec`, `images` and `models`, by file name (of old and new while a launch changes them), and of
        the ids of the image set under `candidates`, where all of it was asked."""
        return self.path / "digests.json"

    @property
    def journal(self) -> Place:
        """Which parts are being replaced by which, while they are."""
        return self.path / storage_journal.JOURNAL

    @property
    def temporary(self) -> Place:
        """Files that are not whole yet: beside `results`, on the same file system. Object stores need none."""
        return self.path / "tmp"

    @property
    def failures(self) -> Place:
        """What the last launch set aside, if anything."""
        return self.path / "failures.json"

    @property
    def unreadable(self) -> Place:
        """Image files that the study was told to leave out because they cannot be read."""
        return self.path / "unreadable.json"

    @property
    def tracked(self) -> Place:
        """The id that the study has on Weights & Biases."""
        return self.path / "tracked.json"

    @property
    def tracking(self) -> Path:
        """What Weights & Biases writes, always on this machine."""
        return self._here("tracking")

    def answers(self, model: str) -> Path:
        """What the remote service behind `model` has answered, always on this machine: never asked again."""
        return self._here("answers") / f"{model}.sqlite"

    def _here(self, name: str) -> Path:
        """A folder of the run on this machine: of a run in an object store, one in the user's cache."""
        if isinstance(self.path, ObjectPath):
            home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
            return home / "study" / name / self.path.bucket / self.path.key
        return self.path.resolve() / name

    @property
    def scanned(self) -> str:
        """What polars is to scan for the rows, with nothing of ours."""
        return f"{self.results}/" if isinstance(self.path, ObjectPath) else str(self.results)

    @property
    def begun(self) -> bool:
        """Whether images were selected: from then on the folder belongs to its spec."""
        return self.spec.is_file() and self.models.is_file() and self.images.is_file()

    def claim(self, say: Callable[[str], None] = _silent) -> None:
        """Create the folder and keep every other driver out of it, until this process ends, however it ends.

        Then mend what a compaction left that died. Raises StudyError where another driver holds it, or it cannot be
        written; in an object store a lease may have to be watched for a minute first, which `say` is told.
        """
        self.storage.claim(("results",), say)
        try:
            storage_journal.repair(self.path, self.storage)
        except BaseException:
            self.release()
            raise

    def release(self) -> None:
        """Let another driver in."""
        self.storage.release()

    def make(self, folder: Place) -> None:
        """See to it that a folder of the run is there; an object store needs none. StudyError where it cannot be."""
        if isinstance(folder, Path):
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise StudyError(
                    f"the folder {folder} cannot be made: {error.strerror}",
                    todo="make room or mend the run folder, then launch again: what was published before is kept",
                    status=1,
                ) from None

    def write_text(self, path: Place, text: str) -> None:
        """Put a whole file in place, or none."""
        self.publish(path, text.encode())

    def write_json(self, path: Place, data: Mapping[str, Any]) -> None:
        self.write_text(path, json.dumps(data, indent=2) + "\n")

    def publish(self, path: Place, content: bytes | memoryview) -> None:
        """Put a whole file in place, or none. Raises StudyError where it cannot be written."""
        self.storage.publish(path, content)

    def publish_new(self, path: Place, content: bytes | memoryview) -> None:
        """The same under a name that no other content has: to repeat it is harmless."""
        self.storage.publish_new(path, content)
