"""The journal of a compaction, and the repair of a compaction whose process died.

A compaction replaces many parts (Parquet files of rows) by fewer parts with the same rows. Its journal, the file
`compacting.json`, names the old and the new parts. A part counts if readers use its rows. The old parts count until all
new parts are in place; from then on the new parts count. So each row counts exactly once at every moment.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from study.errors import StudyError, first_line
from study.events.repairs import repaired
from study.storage import part_file
from study.storage.paths import StoragePath
from study.storage.storage import Storage

JOURNAL = "compacting.json"


@dataclass(frozen=True)
class Journal:
    """The content of a compaction's journal: the names of the `old` parts, and of the `new` parts that replace them."""

    old: tuple[str, ...]
    new: tuple[str, ...]

    def text(self) -> str:
        return json.dumps({"old": self.old, "new": self.new}) + "\n"

    def new_count(self, parts: Sequence[StoragePath]) -> bool:
        """Return whether readers use the rows of the new parts instead of those of the old parts.

        They do if all new parts are among `parts`, which are all parts in `results/`.
        """
        return set(self.new) <= {part.name for part in parts}


def read(run: StoragePath) -> Journal | None:
    """Return the journal of an unfinished compaction; None without a journal. Raises StudyError if it is damaged."""
    path = run / JOURNAL
    try:
        data = json.loads(path.read_text())
        return Journal(tuple(map(str, data["old"])), tuple(map(str, data["new"])))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StudyError(
            f"{path} is damaged: {first_line(error)}",
            todo="restore the file from a backup; or move it away, and check results/ with `study verify`",
            status=1,
        ) from None


def counted(run: StoragePath, parts: Sequence[StoragePath]) -> list[StoragePath]:
    """Return those of `parts` whose rows readers must use. `parts` are all parts (Parquet files of rows) in `results/`.

    During a compaction, the old parts or the new parts are left out.
    """
    journal = read(run)
    if journal is None:
        return list(parts)
    hidden = set(journal.old if journal.new_count(parts) else journal.new)
    return [part for part in parts if part.name not in hidden]


def repair(run: StoragePath, storage: Storage) -> None:
    """Finish or undo an interrupted compaction: remove its old parts if all new parts exist, else its new parts.

    Without a journal, do nothing. The caller must have claimed the run. Raises StudyError if neither all old parts nor
    all new parts exist, or if the journal or a new part is damaged.
    """
    journal = read(run)
    if journal is None:
        return
    parts = {part.name: part for part in (run / "results").rglob("*.parquet")}
    finish = journal.new_count(list(parts.values()))
    if finish:
        _require_intact([parts[name] for name in journal.new])
    if not finish and not set(journal.old) <= parts.keys():
        lost = sorted((set(journal.old) | set(journal.new)) - parts.keys())
        raise StudyError(
            f"{run / JOURNAL}: a compaction was interrupted, and neither all its old parts nor all its new parts exist",
            where=f"results/ lacks {lost[0]}" + (f" and {len(lost) - 1} more" if len(lost) > 1 else ""),
            todo=f"restore the old or the new parts from a backup; or remove {JOURNAL}, all old parts and all new "
            "parts: the next launch computes their rows again",
            status=1,
        )
    for name in journal.old if finish else journal.new:
        if name in parts:
            storage.remove(parts[name])
    storage.remove(run / JOURNAL)
    repaired("results", f"{'finished' if finish else 'undid'} a compaction that was interrupted")


def _require_intact(parts: Sequence[StoragePath]) -> None:
    for part in parts:
        damage = part_file.damage(part)
        if damage is not None:
            raise StudyError(
                f"a part that a compaction wrote is damaged, so the old parts are not removed: {damage}",
                where=str(part),
                todo="if results/ still has all old parts that compacting.json names, move this part out of results/, "
                "so that the old parts count again; else restore this part from a backup; then launch or compact again",
                status=1,
            )
