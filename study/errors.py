"""The error that a user reads: what is wrong, where, what is accepted, what to do."""

from __future__ import annotations

import difflib
import functools
from collections.abc import Iterable


class StudyError(Exception):
    """Bad input, or an environment that cannot run the study.

    Every part is text for the user: `what` is wrong, `where`, what is `accepted`, and what to do (`todo`). `status` is
    the exit status of the process: 2 for bad input, 1 once a study has begun. Pickling keeps every part.
    """

    def __init__(
        self,
        what: str,
        *,
        where: str | None = None,
        accepted: str | None = None,
        todo: str | None = None,
        status: int = 2,
    ) -> None:
        super().__init__(what)
        self.what = what
        self.where = where
        self.accepted = accepted
        self.todo = todo
        self.status = status

    def __reduce__(self) -> tuple[object, ...]:
        rebuild = functools.partial(
            type(self),
            self.what,
            where=self.where,
            accepted=self.accepted,
            todo=self.todo,
            status=self.status,
        )
        return rebuild, ()

    def located(self, where: str) -> StudyError:
        """Return the same error with the place `where`. An error that has a place already is returned unchanged."""
        if self.where is not None:
            return self
        return StudyError(self.what, where=where, accepted=self.accepted, todo=self.todo, status=self.status)

    def __str__(self) -> str:
        lines = [self.what]
        if self.where:
            lines.append(f"  where:    {self.where}")
        if self.accepted:
            lines.append(f"  accepted: {self.accepted}")
        if self.todo:
            lines.append(f"  to do:    {self.todo}")
        return "\n".join(lines)


def first_line(error: BaseException) -> str:
    """Return the first line of an exception's text, or the name of its class if the text is empty."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def names(accepted: Iterable[str], given: object = None, most: int = 12) -> str:
    """Return the accepted names as one text for a message. The names most similar to `given` come first.

    If there are more than `most` names, the text has four names and the number of all names.
    """
    known = list(accepted)
    if not known:
        return "nothing (the list is empty)"
    near = difflib.get_close_matches(str(given), known, n=4, cutoff=0.5) if given is not None else []
    rest = [name for name in known if name not in near]
    shown = near + (rest if len(known) <= most else rest[: max(0, 4 - len(near))])
    if near:
        shown[0] = f"{near[0]} (the nearest)"
    more = f", … ({len(known)} in all)" if len(shown) < len(known) else ""
    return ", ".join(shown) + more
