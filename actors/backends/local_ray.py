"""A local Ray's processes: what they are given when they start, and that they end with the driver, and no others do."""

from __future__ import annotations

import contextlib
import os
import secrets
import subprocess
import sys
import uuid
from collections.abc import Sequence
from contextlib import AbstractContextManager

from actors.backends import reaper
from study.process import children

# Ray's agents rename themselves, which overwrites some of their environment: of many marks, most are left.
_MARKS = tuple(f"STUDY_LOCAL_RAY_{index}" for index in range(64))

_TOKENS = ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")

_GRACE_SECONDS = 3.0
"""How long Ray's processes may take to end by themselves."""

_PATIENCE_SECONDS = 4.0
"""How long the reaper may take beyond that."""

_LEFT_SECONDS = 5.0


class LocalRay:
    """Made before Ray is started, within `starting`; closed after Ray is.

    A process that outlives the driver ends what is left of this Ray however the driver ends.
    """

    def __init__(
        self,
        hidden: Sequence[str] = (),
        grace_seconds: float = _GRACE_SECONDS,
        patience_seconds: float = _PATIENCE_SECONDS,
    ) -> None:
        """`hidden`: variables whose values no process of Ray may have."""
        self._hidden = hidden
        self._patience = grace_seconds + patience_seconds
        self._mark = uuid.uuid4().hex
        self._secret = secrets.token_hex(32)
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
        """The id of the process that outlives this one."""
        return self._reaper.pid

    def starting(self) -> AbstractContextManager[None]:
        """What is started within belongs to this Ray. Nothing that is started before or after does."""
        given = children.environment(children.RAY, os.environ, self._hidden)
        return children.replaced_environment(given | self._token() | dict.fromkeys(_MARKS, self._mark))

    def _token(self) -> dict[str, str]:
        """This Ray's own token, unless the user has set one: Ray would write it into the home directory."""
        if any(os.environ.get(name) for name in _TOKENS):
            return {}
        return {"RAY_AUTH_TOKEN": self._secret}

    def close(self) -> str | None:
        """End what is left of this Ray. Returns a line for people where something was not as it should be."""
        assert self._reaper.stdin is not None, "it was started with a pipe"
        with contextlib.suppress(OSError):
            self._reaper.stdin.close()
        try:
            self._reaper.wait(self._patience)
        except subprocess.TimeoutExpired:
            return self._without_reaper()
        return None

    def _without_reaper(self) -> str:
        """The reaper is stopped, or hangs: this process does what it was for."""
        self._reaper.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._reaper.wait(_LEFT_SECONDS)
        left = reaper.reap(self._mark, 0.0, _LEFT_SECONDS)
        rest = f"and these processes of Ray are still there: {left}" if left else "and nothing of Ray is left"
        return (
            f"the process that ends the local Ray with this one (process {self.reaper}) did not answer for "
            f"{self._patience:g} s: it is killed, {rest}"
        )
