"""Defines every path of a run folder and writes its files. Only one driver can write; readers see whole files only."""

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
    """The run folder of one study: a local folder, or a prefix in an S3 bucket. `claim` creates it."""

    def __init__(self, path: str | StoragePath) -> None:
        """`path` is a local folder or `s3://bucket/prefix`. Raises StudyError if `path` is anything else."""
        self.path = storage_path(path)
        if isinstance(self.path, Path) and self.path.is_file():
            raise not_a_folder(self.path)
        self.storage = open_storage(self.path)

    @property
    def results(self) -> StoragePath:
        """The folder of the Parquet parts with the rows: the targets' answers to the adversarial images."""
        return self.path / "results"

    def geometry(self, probe: str) -> StoragePath:
        """Return the folder of the Parquet parts with the rows of one geometry probe."""
        return self.path / "geometry" / probe

    @property
    def kept(self) -> StoragePath:
        """The folder of the Parquet parts with adversarial images, if the spec says that images are kept."""
        return self.path / "kept"

    @property
    def spec(self) -> StoragePath:
        """The file of the resolved spec: the run's spec with presets and defaults written out."""
        return self.path / "spec.yaml"

    @property
    def earlier_specs(self) -> list[StoragePath]:
        """The files of earlier specs of the run, oldest first. Later launches have replaced these specs."""
        found: list[StoragePath] = []
        while (path := self.path / f"spec-{len(found) + 1}.yaml").is_file():
            found.append(path)
        return found

    @property
    def planned(self) -> StoragePath:
        """The file with the ids of the attack runs in the present plan.

        The file exists only if the run has, or had, rows of attack runs that are no longer in the plan.
        """
        return self.path / "planned.json"

    @property
    def images(self) -> StoragePath:
        """The file of the selected images, with the predictions of every model for the clean images."""
        return self.path / "images.parquet"

    @property
    def models(self) -> StoragePath:
        """The file with the record of every model: digest, number of parameters, preprocessing."""
        return self.path / "models.json"

    @property
    def arithmetic(self) -> StoragePath:
        """The file with all that affects rounding: the workers' hardware, library versions and float settings."""
        return self.path / "arithmetic.json"

    @property
    def digests(self) -> StoragePath:
        """The file with the SHA-256 of the files `spec`, `images` and `models`, by file name.

        While a launch changes one of these files, its old and its new digest are both recorded. The key `candidates`
        has the digest of the ids of the image set. Its value is null if the models have not predicted the whole set.
        """
        return self.path / "digests.json"

    @property
    def journal(self) -> StoragePath:
        """The file that names the old and new parts of a compaction. It exists until the compaction ends."""
        return self.path / journal.JOURNAL

    @property
    def temporary(self) -> StoragePath:
        """The folder of unfinished files, on the same file system as `results`. Not used in S3."""
        return self.path / "tmp"

    @property
    def failures(self) -> StoragePath:
        """The file with the failed units (attack runs on one shard of images) of the last launch, if any failed."""
        return self.path / "failures.json"

    @property
    def tuning(self) -> StoragePath:
        """The folder of the tuning run, which uses separate images to try parameter values for attacks with `tune`."""
        return self.path / "tuning"

    @property
    def tuned(self) -> StoragePath:
        """The file with the results of tuning.

        For each attack with `tune`, it has the chosen parameter values, and the success rate of every combination.
        """
        return self.tuning / "tuning.json"

    @property
    def unreadable(self) -> StoragePath:
        """The file that lists the unreadable image files. The study has left out these images, as its spec allows."""
        return self.path / "unreadable.json"

    @property
    def tracked(self) -> StoragePath:
        """The file with the id of the study on Weights & Biases."""
        return self.path / "tracked.json"

    @property
    def tracking(self) -> Path:
        """The folder of the local files of Weights & Biases."""
        return self._local("tracking")

    def answers(self, model: str) -> Path:
        """Return the file that caches the answers of the remote service of `model`. It is always local."""
        return self._local("answers") / f"{model}.sqlite"

    def verdicts(self, model: str) -> Path:
        """Return the file that caches the replies of a judging model. It is always local.

        The judging model is a second chat model. It decides which labels are named in the answers of the chat service
        `model`.
        """
        return self._local("answers") / f"{model}.judge.sqlite"

    def _local(self, name: str) -> Path:
        """Return a local folder of the run. For a run in S3, this folder is in the user's cache folder."""
        if isinstance(self.path, S3Path):
            home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
            return home / "study" / name / self.path.bucket / self.path.key
        return self.path.resolve() / name

    @property
    def begun(self) -> bool:
        """Whether a launch has recorded its spec, models and selected images.

        From then on, the folder belongs to this study: launches of another study refuse it.
        """
        return self.spec.is_file() and self.models.is_file() and self.images.is_file()

    def claim(self, say: Callable[[str], None] = lambda line: None) -> None:
        """Create the folder and reserve the run for this driver (process of a launch). Repair an unfinished compaction.

        Other drivers can claim the run after `release`, or after this process ends. Raises StudyError if another driver
        has claimed the run, if the run cannot be written, or if an unfinished compaction cannot be repaired. In S3,
        this method may have to watch the lease of another driver for a minute. `say` then receives a line.
        """
        self.storage.claim(("results",), say)
        try:
            journal.repair(self.path, self.storage)
        except BaseException:
            self.release()
            raise

    def release(self) -> None:
        """Let other drivers (processes of launches) claim the run."""
        self.storage.release()

    def make_folder(self, folder: StoragePath) -> None:
        """Create a folder of the run if it does not exist. Does nothing in S3, which has no folders.

        Raises StudyError if the folder cannot be created.
        """
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
        """Write a file or replace an existing file. Readers see the whole old file or the whole new file.

        Raises StudyError if the file cannot be written.
        """
        self.storage.publish(path, content)

    def publish_new(self, path: StoragePath, content: bytes | memoryview) -> None:
        """Write a new file whose name is used only for this content, such as a part.

        To write the same content twice is harmless. Raises StudyError if the file cannot be written.
        """
        self.storage.publish_new(path, content)
