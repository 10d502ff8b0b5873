"""Our own files about the W&B runs of a study: RUN/tracked.json with their ids, and a file for each run."""

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
    """Content of tracked.json: the id of the first W&B run, and a digest of each plan that was tracked."""

    id: str = ""
    plans: list[str] = field(default_factory=list)


def run_id(folder: RunFolder, plan: Plan) -> str:
    """The id of the W&B run of `plan`: the name of the study and eight random digits, the same in each launch.

    If the plan changes (attacks or targets are added), the history starts again in another run: `…-2`. Raises
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
    """The data that launches on this machine have logged to one W&B run.

    Attributes:
        step: The last step; -1 if none.
        offline: Folders of offline launches with history.
        unsent: Whether an online launch ended before the server confirmed all data.
    """

    step: int = -1
    offline: list[str] = field(default_factory=list)
    unsent: bool = False

    @classmethod
    def read(cls, path: Path) -> Logged:
        """Read the file at `path`, if there is one. Raises StudyError if it is damaged."""
        try:
            return json_file.read(path, cls, todo="remove it, and tracked.json: the next launch begins another W&B run")
        except FileNotFoundError:
            return cls()

    def write(self, path: Path) -> None:
        """Replace the file at `path`."""
        new = path.with_suffix(".new")
        new.write_text(json.dumps(asdict(self)))
        os.replace(new, path)


def logged_path(folder: Path, run: str) -> Path:
    """Path of the file of W&B run `run` in the folder for tracking."""
    return folder / f"{run}.json"
