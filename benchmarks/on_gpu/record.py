"""Records the results of the acceptance run: a line of JSON for each case, on disk as soon as its result is known.

A run that is cut off keeps its results. A line is written with one call, to a file that is open for appending. So a
step and the process that supervises it can write to the same file.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

Outcome = Literal["passed", "failed", "measured", "skipped", "cut off", "done"]
"""The outcome of a case. `measured`: it has numbers, and cannot fail. `done`: the step has ended."""


@dataclass(frozen=True)
class Line:
    """The result of one case of one step.

    Attributes:
        step: The name of the step.
        case: The name of the case.
        outcome: The outcome.
        why: Why the case failed, was skipped or was cut off; otherwise empty.
        figures: The numbers of the case, by name.
    """

    step: str
    case: str
    outcome: Outcome
    why: str = ""
    figures: dict[str, Any] = field(default_factory=dict)
    run: str = ""
    """The run that wrote the line, named by the time when it began."""


class Results:
    """The file of results."""

    def __init__(self, path: Path, run: str) -> None:
        self.path = path
        self._run = run

    def add(self, step: str, case: str, outcome: Outcome, why: str = "", figures: dict[str, Any] | None = None) -> None:
        line = Line(step, case, outcome, why, figures or {}, self._run)
        text = json.dumps(asdict(line), default=_plain) + "\n"
        handle = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            os.write(handle, text.encode())
        finally:
            os.close(handle)


def _plain(value: Any) -> Any:
    """Return a number of numpy or torch as a Python number."""
    return value.item()


def read(path: Path) -> list[Line]:
    """Return the lines of a file of results, in order. A last line that was cut off is left out."""
    found = []
    for text in path.read_text().splitlines() if path.is_file() else []:
        with contextlib.suppress(json.JSONDecodeError):
            found.append(Line(**json.loads(text)))
    return found


def newest(lines: Sequence[Line]) -> list[Line]:
    """Return only the last line of each case. The cases are in the order of their first lines."""
    return list({(line.step, line.case): line for line in lines}.values())


class Step:
    """A running step: records the outcomes of its cases, and says how much time is left."""

    def __init__(self, name: str, results: Results, seconds: float) -> None:
        self.name = name
        self._results = results
        self._ends = time.monotonic() + seconds

    @property
    def left(self) -> float:
        """Seconds that the step has left."""
        return self._ends - time.monotonic()

    def room_for(self, case: str, seconds: float = 1.0) -> bool:
        """Return whether there is time for a case that takes `seconds`. If not, the case is recorded as cut off."""
        if self.left > seconds:
            return True
        self.cut_off(case, f"the step's time was used up; {seconds:.0f} s were needed")
        return False

    def check(self, case: str, passed: bool, why: str = "", **figures: Any) -> None:
        """Record whether a check passed. `why` explains a failure."""
        self._results.add(self.name, case, "passed" if passed else "failed", "" if passed else why, figures)

    def measured(self, case: str, **figures: Any) -> None:
        self._results.add(self.name, case, "measured", figures=figures)

    def skipped(self, case: str, why: str) -> None:
        self._results.add(self.name, case, "skipped", why)

    def cut_off(self, case: str, why: str) -> None:
        self._results.add(self.name, case, "cut off", why)

    @contextlib.contextmanager
    def case(self, name: str) -> Iterator[None]:
        """Return a context for a case. An error inside is recorded as a failure, so later cases still run."""
        try:
            yield
        except Exception as error:  # noqa: BLE001 - any error of a device or a library is a result
            place = traceback.extract_tb(error.__traceback__)[-1]
            text = (str(error).strip().splitlines() or [""])[0]
            why = f"{type(error).__name__}: {text} ({Path(place.filename).name}:{place.lineno})"
            self._results.add(self.name, name, "failed", why)
