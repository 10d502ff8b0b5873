"""A process that forks launches of a small study which die at a step of the writer that the test names.

Reads one JSON order per line, `{"do", "spec", "run", "at", "how"}`, and answers with the exit status of the
launch and the steps that it took. Forking spares every launch the second that imports take;
nothing with threads runs before.
"""

from __future__ import annotations

import errno
import io
import json
import os
import sys
from pathlib import Path
from typing import Any

DEAD = 86
STEPS = ("open", "write", "fsync", "rename", "unlink")


class Breaking:
    """Stands for `os` in the storage: counts what is done to the disk, and ends the process at one of the steps."""

    def __init__(self, at: int, how: str, trace: list[str]) -> None:
        self._at, self._how, self._trace = at, how, trace

    def __getattr__(self, name: str) -> Any:
        real = getattr(os, name)
        if name not in STEPS:
            return real

        def step(*arguments: Any) -> Any:
            self._trace.append(name)
            here = len(self._trace) - 1 == self._at
            if here and self._how == "before":
                os._exit(DEAD)
            if here and self._how == "half" and name == "write":
                real(arguments[0], bytes(arguments[1])[: len(arguments[1]) // 2])
                os._exit(DEAD)
            if self._how == "full" and name == "write" and len(self._trace) - 1 >= self._at:
                real(arguments[0], bytes(arguments[1])[: len(arguments[1]) // 2])
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            if here and self._how == "refused":
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            done = real(*arguments)
            if here and self._how == "after":
                os._exit(DEAD)
            return done

        return step


def launched(order: dict[str, Any], trace: list[str]) -> tuple[int, str]:
    from rich.console import Console

    from actors.backends.in_process import InProcess
    from actors.launch.launch import launch
    from actors.launch.options import LaunchOptions
    from study.errors import StudyError
    from study.reproducibility import numerics
    from study.storage import places
    from study.terminal import status

    numerics.fix(1)
    # How a launch stands is written now and then, by the clock, and nothing depends on it.
    status.StatusFile._write = lambda self, **said: None  # type: ignore[method-assign]
    places.os = Breaking(order["at"], order["how"], trace)  # type: ignore[attr-defined]
    printed = io.StringIO()
    try:
        if order["do"] == "compact":
            from study.results.compact import compact
            from study.storage.run_folder import RunFolder

            folder = RunFolder(order["run"])
            places.os = os
            folder.claim()
            places.os = Breaking(order["at"], order["how"], trace)  # type: ignore[attr-defined]
            compact(folder, most_rows=2)
            folder.release()
            return 0, ""
        return launch(
            LaunchOptions(Path(order["spec"]), Path(order["run"])), Console(file=printed, width=200), InProcess
        ), ""
    except StudyError as error:
        return error.status, str(error)


def main() -> None:
    import polars  # noqa: F401 - before the forks
    import timm  # noqa: F401
    import torch  # noqa: F401
    import torchvision  # noqa: F401

    import actors.launch.launch  # noqa: F401

    for line in sys.stdin:
        read, write = os.pipe()
        child = os.fork()
        if child == 0:
            trace: list[str] = []
            status, error = launched(json.loads(line), trace)
            os.write(write, json.dumps([trace, error]).encode())
            os._exit(status)
        os.close(write)
        with os.fdopen(read) as opened:
            said = opened.read()
        trace, error = json.loads(said) if said else ([], "")
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        print(json.dumps({"status": status, "trace": trace, "error": error}), flush=True)


if __name__ == "__main__":
    main()
