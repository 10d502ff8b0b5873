"""The processes of a local Ray: the environment in which they start, and the helper process that ends them.

The helper (`reaper.py`) ends only these processes. It outlives the driver, so that a killed driver leaves no process of
Ray behind.
"""

from __future__ import annotations

import contextlib
import functools
import os
import secrets
import subprocess
import sys
import uuid
from collections.abc import Sequence
from contextlib import AbstractContextManager

from actors.backends import reaper
from study.process import children

# These variables mark the processes of a local Ray. Ray's agents rename themselves, which overwrites a part of their
# environment. So there are many variables, of which some remain.
_MARKS = tuple(f"STUDY_LOCAL_RAY_{index}" for index in range(64))

_TOKENS = ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")

_GRACE_SECONDS = 3.0
"""Seconds that Ray's processes have to end by themselves."""

_PATIENCE_SECONDS = 4.0
"""Further seconds that the reaper (the helper process) has to kill these processes."""

_LEFT_SECONDS = 5.0


@functools.cache
def _secret() -> str:
    """Return the authentication token of every local Ray of this process.

    Ray reads the token only once in a process, so the token must stay the same.
    """
    return secrets.token_hex(32)


class LocalRay:
    """Marks the processes of one local Ray, and ends them.

    Create this object first, start Ray inside `starting()`, and call `close` last.
    """

    def __init__(
        self,
        hidden: Sequence[str] = (),
        grace_seconds: float = _GRACE_SECONDS,
        patience_seconds: float = _PATIENCE_SECONDS,
    ) -> None:
        """Start the helper process that ends Ray's processes.

        `hidden`: names of environment variables that Ray's processes must not get. `grace_seconds`: time for Ray's
        processes to end by themselves. `patience_seconds`: further time for the helper to kill them.
        """
        self._hidden = hidden
        self._patience = grace_seconds + patience_seconds
        self._mark = uuid.uuid4().hex
        self._reaper = children.start(
            [sys.executable, "-I", "-S", reaper.__file__, self._mark, str(grace_seconds)],
            children.HELPER,
            children.environment(children.HELPER, os.environ),
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
        )

    @property
    def reaper(self) -> int:
        """The process id of the reaper, the helper process."""
        return self._reaper.pid

    def starting(self) -> AbstractContextManager[None]:
        """Return a context for starting Ray. Exactly the processes that are started inside it belong to this Ray."""
        environment = children.environment(children.RAY, os.environ, self._hidden) | dict.fromkeys(_MARKS, self._mark)
        if not any(os.environ.get(name) for name in _TOKENS):
            # Without a token, Ray would write a new one into the home directory.
            environment["RAY_AUTH_TOKEN"] = _secret()
        return children.replaced_environment(environment)

    def close(self, *, orderly: bool = False) -> str | None:
        """End all processes of this Ray. Returns a warning for the user if the reaper did not answer, else None.

        `orderly`: whether Ray was shut down in an orderly way. Its remaining processes then have nothing to finish.
        """
        assert self._reaper.stdin is not None, "the reaper was started with a pipe"
        with contextlib.suppress(OSError):
            if orderly:
                self._reaper.stdin.write(b".")
                self._reaper.stdin.flush()
        with contextlib.suppress(OSError):
            self._reaper.stdin.close()
        try:
            self._reaper.wait(self._patience)
        except subprocess.TimeoutExpired:
            return self._close_without_reaper()
        return None

    def _close_without_reaper(self) -> str:
        self._reaper.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._reaper.wait(_LEFT_SECONDS)
        left = reaper.reap(self._mark, 0.0, _LEFT_SECONDS)
        rest = f"and these processes of Ray still exist: {left}" if left else "and no process of Ray is left"
        return (
            f"the process that ends the local Ray (process {self.reaper}) did not answer for {self._patience:g} s: "
            f"it was killed, {rest}"
        )
