"""Which parts count while many are being replaced by few, and what a compaction that died leaves to do.

`compacting.json` names the old parts and the new ones. Until all new ones are in place the old ones count, and from
then on the new ones: at no moment a row counts twice, or not at all.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from study.errors import StudyError
from study.events.repairs import repaired
from study.storage.places import Place, Storage

JOURNAL = "compacting.json"


@dataclass(frozen=True)
class Journal:
    """Names of parts in `results/`."""

    old: tuple[str, ...]
    new: tuple[str, ...]

    def text(self) -> str:
        return json.dumps({"old": self.old, "new": self.new}) + "\n"


def read(run: Place) -> Journal | None:
    """The journal of a compaction that is under way, or was when its process died. StudyError where it is damaged."""
    path = run / JOURNAL
    try:
        data = json.loads(path.read_text())
        return Journal(tuple(map(str, data["old"])), tuple(map(str, data["new"])))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StudyError(
            f"{path} is damaged: {str(error).splitlines()[0]}",
            todo="look at results/ with `study verify`, and bring the file back from a copy",
            status=1,
        ) from None


def counting(run: Place, parts: Sequence[Place]) -> list[Place]:
    """Those of `parts`, all that lie in `results/`, whose rows count."""
    journal = read(run)
    if journal is None:
        return list(parts)
    hidden = set(journal.old if _all_in_place(journal, parts) else journal.new)
    return [part for part in parts if part.name not in hidden]


def repair(run: Place, storage: Storage) -> None:
    """Bring a compaction that died to its end, or undo it: only for who holds the lease."""
    journal = read(run)
    if journal is None:
        return
    lie = {part.name: part for part in (run / "results").rglob("*.parquet")}
    whole = _all_in_place(journal, list(lie.values()))
    if whole:
        _must_be_intact([lie[name] for name in journal.new])
    if not whole and not set(journal.old) <= lie.keys():
        lost = sorted((set(journal.old) | set(journal.new)) - lie.keys())
        raise StudyError(
            f"{run / JOURNAL}: neither the old parts of a compaction nor its new ones are all there",
            where=f"results/ lacks {lost[0]}" + (f" and {len(lost) - 1} more" if len(lost) > 1 else ""),
            todo="bring one of the two sets back from a copy; or remove the parts that are left of both, and the file",
            status=1,
        )
    for name in journal.old if whole else journal.new:
        if name in lie:
            storage.remove(lie[name])
    storage.remove(run / JOURNAL)
    repaired("results", f"a compaction had died, and is {'finished' if whole else 'undone'}")


def _must_be_intact(parts: Sequence[Place]) -> None:
    """Old parts go only for new ones that are as they were written."""
    from study.results.integrity import wrong

    for part in parts:
        what = wrong(part)
        if what is not None:
            raise StudyError(
                f"a part that a compaction has written is damaged, so the old parts are not removed: {what}",
                where=str(part),
                todo="move it out of results/ and launch again, or compact again: the old parts count then",
                status=1,
            )


def _all_in_place(journal: Journal, parts: Sequence[Place]) -> bool:
    return set(journal.new) <= {part.name for part in parts}
