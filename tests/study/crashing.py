"""A process that forks children which write to a run and die at the step that a test names.

It reads one JSON order per line, `{"do", "spec", "run", "at", "how", "environment"}`, and answers with the exit status
of the child and the steps that it took. Forking saves every child the seconds that imports take; no thread runs before.
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
PUBLISH = ["open", "write", "fsync", "rename", "open", "fsync"]
"""The steps of publishing a file: temporary file, content, fsync, final name; folder, fsync."""


class Breaking:
    """Replaces `os` in the local storage: records its steps on the disk, and ends the process at one of them."""

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


def execute(order: dict[str, Any], trace: list[str]) -> tuple[int, str]:
    """Carry out one order; return its exit status and its error."""
    from study.errors import StudyError
    from study.storage import local

    os.environ.update(order["environment"])
    breaking = Breaking(order["at"], order["how"], trace)
    try:
        if order["do"] in {"launch", "launch in S3"}:
            return launched(order, breaking), ""
        from study.results.compact import compact
        from study.storage.run_folder import RunFolder

        folder = RunFolder(order["run"])
        folder.claim()
        local.os = breaking  # type: ignore[attr-defined]
        if order["do"] == "compact":
            compact(folder, rows_per_part=2)
        else:
            folder.publish(folder.path / "file", order["spec"].encode())
        folder.release()
        return 0, ""
    except StudyError as error:
        return error.status, str(error)


def launched(order: dict[str, Any], breaking: Breaking) -> int:
    from rich.console import Console

    from actors.backends.in_process import InProcess
    from actors.launch.launch import LaunchOptions, launch
    from study.reproducibility import numerics
    from study.storage import lease, local
    from study.storage.s3 import S3Storage
    from study.terminal import status

    numerics.fix(1)
    if order["do"] == "launch in S3":
        lease.SECONDS = 1.5
        S3Storage._put = dying_put(S3Storage._put, order["at"], order["how"])  # type: ignore[method-assign]
    else:
        # The status file is written by the clock, which would make the steps vary; nothing depends on it.
        status.StatusFile._write = lambda self, **said: None  # type: ignore[method-assign]
        local.os = breaking  # type: ignore[attr-defined]
    run = order["run"] if order["do"] == "launch in S3" else Path(order["run"])
    return launch(LaunchOptions(Path(order["spec"]), run), Console(file=io.StringIO(), width=200), InProcess)


def dying_put(put: Any, at: int, how: str) -> Any:
    """`put`, ending the process before or after its call number `at`, counted from 1."""
    calls = [0]

    def dying(*arguments: Any) -> None:
        calls[0] += 1
        if (calls[0], how) == (at, "before"):
            os._exit(DEAD)
        put(*arguments)
        if (calls[0], how) == (at, "after"):
            os._exit(DEAD)

    return dying


def main() -> None:
    import polars  # noqa: F401 - before the forks
    import timm  # noqa: F401
    import torch  # noqa: F401
    import torchvision  # noqa: F401

    import actors.launch.launch  # noqa: F401
    import study.attacks.loop
    import study.models.loading
    import study.models.memory  # noqa: F401

    for line in sys.stdin:
        read, write = os.pipe()
        child = os.fork()
        if child == 0:
            trace: list[str] = []
            status, error = execute(json.loads(line), trace)
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
