"""The project's own files about the W&B runs of a study: RUN/tracked.json, and one file for each W&B run.

tracked.json decides the ids of the W&B runs. The file of a W&B run says what this machine has logged to the run.
"""

from __future__ import annotations

import json
import os
import re
import secrets
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from study.reproducibility.hashing import digest
from study.storage import json_file
from study.storage.run_folder import RunFolder

if TYPE_CHECKING:
    from study.planning.plan import Plan


@dataclass(frozen=True)
class _Tracked:
    """The content of tracked.json: the id of the first W&B run, and the digest of each plan that was tracked."""

    id: str = ""
    plans: list[str] = field(default_factory=list)


def run_id(folder: RunFolder, plan: Plan) -> str:
    """Return the id of the W&B run of `plan`: the name of the study and eight random hexadecimal digits.

    All launches of the same plan get the same id. If the plan changes, for example because attacks, targets or images
    were added, the history starts again in another W&B run, whose id ends with `-2`, then `-3` and so on. Raises
    StudyError if tracked.json is damaged.
    """
    try:
        known = json_file.read(folder.tracked, _Tracked, todo="remove it: the next launch begins another W&B run")
    except FileNotFoundError:
        known = _Tracked()
    study = re.sub(r"[^A-Za-z0-9_-]", "-", plan.spec.study)[:80]
    base = known.id or f"{study}-{secrets.token_hex(4)}"
    crafts = [(craft.id, list(craft.targets), list(craft.experiments)) for craft in plan.crafts.values()]
    this = digest({"crafts": crafts, "shards": [len(shard.images) for shard in plan.shards]})
    plans = [*known.plans, *([] if this in known.plans else [this])]
    if plans != known.plans:
        folder.write_json(folder.tracked, {"id": base, "plans": plans})
    number = plans.index(this) + 1
    return base if number == 1 else f"{base}-{number}"


@dataclass
class Logged:
    """A record of what launches on this machine have logged to one W&B run.

    Attributes:
        step: The last step that was logged; -1 if there is none.
        offline: The folders of offline launches that logged history.
        unsent: Whether an online launch ended before the server confirmed all data.
    """

    step: int = -1
    offline: list[str] = field(default_factory=list)
    unsent: bool = False

    @classmethod
    def read(cls, path: Path) -> Logged:
        """Read the record from the file at `path`; without a file, return an empty record.

        Raises StudyError if the file is damaged.
        """
        try:
            return json_file.read(path, cls, todo="remove it and tracked.json: the next launch begins another W&B run")
        except FileNotFoundError:
            return cls()

    def write(self, path: Path) -> None:
        """Write the record to the file at `path`. An existing file is replaced in one step."""
        new = path.with_suffix(".new")
        new.write_text(json.dumps(asdict(self)))
        os.replace(new, path)


def logged_path(folder: Path, run: str) -> Path:
    """Return the path of the file about the W&B run `run`, in the folder for tracking."""
    return folder / f"{run}.json"
