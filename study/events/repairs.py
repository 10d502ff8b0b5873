"""Repairs: what went wrong and was mended by the program itself. Each is told through `repaired`, and in that one word.

An undisturbed run repairs nothing: tests look for the word in everything that a launch leaves behind.
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
    """One repair: what kind of thing was mended, and what happened, in a sentence."""

    kind: Kind
    what: str

    def __str__(self) -> str:
        return f"{WORD}: {self.kind}: {self.what}"


# A deque takes and gives from several threads at once.
_waiting: deque[Repair] = deque(maxlen=_MOST_WAITING)


def repaired(kind: Kind, what: str) -> None:
    """Tell of one repair, from any thread: a worker's go to the driver with its next answer, the driver's to people."""
    _waiting.append(Repair(kind, what))


def taken() -> list[Repair]:
    """The repairs of this process that were not taken before. Whoever takes them tells them."""
    found = []
    while _waiting:
        found.append(_waiting.popleft())
    return found


def hear(repairs: Iterable[Repair]) -> None:
    """Take over what another process has taken."""
    _waiting.extend(repairs)


def summary(counts: Mapping[str, int]) -> str:
    """One line about a launch: how many repairs of each kind."""
    return f"{WORD} in this launch: " + ", ".join(f"{kind} {count:,}" for kind, count in sorted(counts.items()))
