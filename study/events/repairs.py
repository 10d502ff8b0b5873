"""Reports repairs: problems that the program solved itself, such as a dead actor that it replaced.

The message on each repair has the word "repaired". A run without problems repairs nothing, so tests search all output
of a launch for this word.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from typing import Literal, NamedTuple, get_args

WORD = "repaired"

Kind = Literal[
    "actor", "call", "straggler", "batch", "memory", "service", "download", "storage", "lease", "results", "cache",
    "tracking", "watcher",
]  # fmt: skip
KINDS: tuple[Kind, ...] = get_args(Kind)

_MOST_WAITING = 10_000


class Repair(NamedTuple):
    """One repair. `kind`: the kind of thing that was repaired. `what`: a sentence on what happened."""

    kind: Kind
    what: str

    def __str__(self) -> str:
        return f"{WORD}: {self.kind}: {self.what}"


# A deque is safe to use from several threads.
_waiting: deque[Repair] = deque(maxlen=_MOST_WAITING)


def repaired(kind: Kind, what: str) -> None:
    """Report one repair, from any thread. The process collects it until `taken` is called.

    A worker sends its repairs to the driver with its next answer.
    """
    _waiting.append(Repair(kind, what))


def taken() -> list[Repair]:
    """Remove and return the repairs that this process has collected. The caller passes them on."""
    found = []
    while _waiting:
        found.append(_waiting.popleft())
    return found


def hear(repairs: Iterable[Repair]) -> None:
    """Add repairs of another process, which `taken` returned there, to the repairs of this process."""
    _waiting.extend(repairs)


def summary(counts: Mapping[str, int]) -> str:
    """Return a line with the number of repairs of each kind. `counts`: these numbers, by kind."""
    return f"{WORD} in this launch: " + ", ".join(f"{kind} {count:,}" for kind, count in sorted(counts.items()))
