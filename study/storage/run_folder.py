"""Defines every path of a run, and writes its files: one driver at a time, and whole files only."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from study.errors import StudyError
from study.storage import journal
from study.storage.no_run import not_a_folder
from study.storage.paths import StoragePath, storage_path
from study.storage.s3_path import S3Path
from study.storage.storage import open_storage


class RunFolder:
    """The folder of one study, or its prefix in an S3 bucket. Nothing is created until `claim`."""

    def __init__(self, path: str | StoragePath) -> None:
        """`path` is a folder or `s3://bucket/prefix`. Raises StudyError if `path` is a file or another address."""
        self.path = storage_path(path)
        if isinstance(self.path, Path) and self.path.is_file():
            raise not_a_folder(self.path)
        self.storage = open_storage(self.path)

    @property
    def results(self) -> StoragePath:
        """Parquet parts with the rows."""
        return self.path / "results"

    def geometry(self, probe: str) -> StoragePath:
        """Parquet parts with the rows of one geometry probe."""
        return self.path / "geometry" / probe

    @property
    def kept(self) -> StoragePath:
        """Parquet parts with adversarial images, if the spec keeps them."""
        return self.path / "kept"

    @property
    def spec(self) -> StoragePath:
        """The resolved spec of the run."""
        return self.path / "spec.yaml"

    @property
    def earlier_specs(self) -> list[StoragePath]:
        """The earlier specs of the run, which the present spec replaced, oldest first."""
        found: list[StoragePath] = []
        while (path := self.path / f"spec-{len(found) + 1}.yaml").is_file():
            found.append(path)
        return found

    @property
    def planned(self) -> StoragePath:
        """The ids of the attack runs in the present plan. The file exists if the run has rows of other attack runs."""
        return self.path / "planned.json"

    @property
    def images(self) -> StoragePath:
        """The selected images, with the clean predictions of every model."""
        return self.path / "images.parquet"

    @property
    def models(self) -> StoragePath:
        """Digest, size and parameters of every model, as loaded."""
        return self.path / "models.json"

    @property
    def arithmetic(self) -> StoragePath:
        """The hardware, library versions and float settings of the workers: everything that affects rounding."""
        return self.path / "arithmetic.json"

    @property
    def digests(self) -> StoragePath:
        """The SHA-256 of `spec`, `images` and `models`, by file name.

        While a launch changes a file, its old and its new digest are both there. `candidates` is the digest of the
        image set's ids; it is there if the models have predicted the whole image set.
        """
        return self.path / "digests.json"

    @property
    def journal(self) -> StoragePath:
        """The journal of a compaction, which exists while the compaction is under way."""
        return self.path / journal.JOURNAL

    @property
    def temporary(self) -> StoragePath:
        """Unfinished files, on the same file system as `results`. Not used in S3."""
        return self.path / "tmp"

    @property
    def failures(self) -> StoragePath:
        """The units (attack runs on one shard of images) that failed in the last launch, if any."""
        return self.path / "failures.json"

    @property
    def tuning(self) -> StoragePath:
        """The run that tries the choices of attacks with `tune`, on images that the study does not use."""
        return self.path / "tuning"

    @property
    def tuned(self) -> StoragePath:
        """For each attack with `tune`: the chosen values of its parameters, and the success rate of every choice."""
        return self.tuning / "tuning.json"

    @property
    def unreadable(self) -> StoragePath:
        """Unreadable image files that the study left out, as its spec allows."""
        return self.path / "unreadable.json"

    @property
    def tracked(self) -> StoragePath:
        """The id of the study on Weights & Biases."""
        return self.path / "tracked.json"

    @property
    def tracking(self) -> Path:
        """Local files of Weights & Biases."""
        return self._local("tracking")

    def answers(self, model: str) -> Path:
        """The cache of answers from the remote service of `model`, always local."""
        return self._local("answers") / f"{model}.sqlite"

    def verdicts(self, model: str) -> Path:
        """The cache of answers from the model that judges the sentences of the service of `model`, always local."""
        return self._local("answers") / f"{model}.judge.sqlite"

    def _local(self, name: str) -> Path:
        """A local folder of the run. For a run in S3, this folder is in the user's cache folder."""
        if isinstance(self.path, S3Path):
            home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
            return home / "study" / name / self.path.bucket / self.path.key
        return self.path.resolve() / name

    @property
    def begun(self) -> bool:
        """Whether a launch has selected images. From then on, the folder belongs to the spec of that launch."""
        return self.spec.is_file() and self.models.is_file() and self.images.is_file()

    def claim(self, say: Callable[[str], None] = lambda line: None) -> None:
        """Create the folder, keep other drivers out until `release`, and repair an unfinished compaction.

        Other drivers are also let in when this process ends. Raises StudyError if another driver has the run, or if the
        run cannot be written. In S3, the claim may have to watch a lease for a minute; `say` then receives a line.
        """
        self.storage.claim(("results",), say)
        try:
            journal.repair(self.path, self.storage)
        except BaseException:
            self.release()
            raise

    def release(self) -> None:
        """Let other drivers in."""
        self.storage.release()

    def make_folder(self, folder: StoragePath) -> None:
        """Create a folder of the run if it does not exist; S3 has no folders. Raises StudyError if that fails."""
        if isinstance(folder, Path):
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise StudyError(
                    f"the folder {folder} cannot be created: {error.strerror}",
                    todo="free disk space or repair the run folder, then launch again: published results are kept",
                    status=1,
                ) from None

    def write_text(self, path: StoragePath, text: str) -> None:
        self.publish(path, text.encode())

    def write_json(self, path: StoragePath, data: Mapping[str, Any]) -> None:
        self.write_text(path, json.dumps(data, indent=2) + "\n")

    def publish(self, path: StoragePath, content: bytes | memoryview) -> None:
        """Write a whole file, or replace it. Raises StudyError if that fails."""
        self.storage.publish(path, content)

    def publish_new(self, path: StoragePath, content: bytes | memoryview) -> None:
        """Write a file whose name belongs to this content alone, such as a part. Writing it twice is harmless."""
        self.storage.publish_new(path, content)
