"""What every process that we start is given: its environment, its search path for modules, its limits.

Nothing is imported from the working folder. Python puts that folder, or a script's, before all others: each process is
told not to (`PYTHONSAFEPATH`), and what stands empty in `PYTHONPATH` is taken out of it. Folders that stand there by
name stay, for they are their user's wish.

No process gets a secret that is not its own. Secret are the variables that services name as their credentials, and
those whose names say so (`…TOKEN…`, `…SECRET…`, `…PASSWORD…`, `…API_KEY…`, `…ACCESS_KEY…`, `…CREDENTIAL…`):

- The credential of a service goes to nobody. The one actor that asks the service is sent its value.
- `WANDB_…` goes to W&B's process alone.
- `AWS_…` goes to W&B's process, where the run is in an object store: it reads the run's parts there. Workers are sent
  their images, and have nothing to do with the store.
- `HF_…` and `HUGGING_FACE_…` go to Ray's processes, whose workers download weights; `RAY_…` too.
- Proxies and certificates go to all of them, because all of them may use the network.

The rest of the driver's environment goes to Ray's processes and W&B's as it is, because it says how libraries behave:
`CUDA_…`, `OMP_…`, `TORCH_HOME`, `LD_LIBRARY_PATH`. Small helpers get what is needed to start, by name.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.machinery
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_SECRET = re.compile("TOKEN(?!IZERS_)|SECRET|PASSWORD|PASSWD|API_KEY|ACCESS_KEY|CREDENTIAL", re.IGNORECASE)
_OWNED = ("WANDB_", "AWS_")
"""Variables that go to their owner alone, secret or not."""

_HERE = Path(__file__).resolve()
_ROOT = _HERE.parents[2]
_ASK_SECONDS = 60.0

_whole: dict[str, str] | None = None


@dataclass(frozen=True)
class Kind:
    """A kind of process.

    Attributes:
        own: Prefixes of variables that it gets though they are secret, or another's.
        only: Where given, the variables that it gets at all.
        sets: Variables that it gets besides.
        nice: How far it stands back from the study's own work.
    """

    own: tuple[str, ...] = ()
    only: tuple[str, ...] | None = None
    sets: Mapping[str, str] = field(default_factory=dict)
    nice: int = 0

    def gets(self, name: str) -> bool:
        """Whether a variable of the driver goes to processes of this kind."""
        if self.only is not None:
            return name in self.only
        return name.startswith(self.own) or not (looks_secret(name) or name.startswith(_OWNED))


RAY = Kind(own=("RAY_", "HF_", "HUGGING_FACE_"))
"""The daemons of a local Ray and its workers, which inherit from the daemons."""

_QUIET = {"WANDB_SILENT": "true", "WANDB_CONSOLE": "off", "WANDB_ERROR_REPORTING": "false", "POLARS_MAX_THREADS": "1"}

TRACKER = Kind(own=("WANDB_",), sets=_QUIET, nice=15)
"""W&B's process, and the service that W&B starts in it."""

TRACKER_OF_STORE = Kind(own=("WANDB_", "AWS_"), sets=_QUIET, nice=15)
"""The same, where the run is in an object store."""

HELPER = Kind(only=("PATH", "LD_LIBRARY_PATH", "LANG", "LC_ALL", "TMPDIR"))
"""A small process that asks the machine something, or ends other processes."""


def looks_secret(name: str) -> bool:
    """Whether a variable's name says that its value is secret."""
    return _SECRET.search(name) is not None


def environment(kind: Kind, given: Mapping[str, str], hidden: Sequence[str] = ()) -> dict[str, str]:
    """The environment of a process of `kind`, made of the driver's. `hidden`: the variables that services name."""
    made = {name: value for name, value in given.items() if name not in hidden and kind.gets(name)}
    made |= {**kind.sets, "PYTHONSAFEPATH": "1"}
    made.pop("PYTHONPATH", None)
    if kind.only is None:
        named = [os.path.abspath(one) for one in given.get("PYTHONPATH", "").split(os.pathsep) if one]
        path = [*([] if _found(tuple(named)) else [str(_ROOT)]), *named]
        if path:
            made["PYTHONPATH"] = os.pathsep.join(path)
    return made


def start(words: Sequence[str], kind: Kind, environment: Mapping[str, str], **streams: Any) -> subprocess.Popen[bytes]:
    """A process of `kind`, in a session of its own: Ctrl-C is for the driver, which tells the others."""
    process = subprocess.Popen(list(words), env=dict(environment), start_new_session=True, **streams)
    if kind.nice:
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, process.pid, kind.nice)
    return process


def module(name: str) -> list[str]:
    """The words that run a module of ours."""
    return [sys.executable, "-P", "-m", name]


def answer(words: Sequence[str], seconds: float) -> str | None:
    """What a command of the machine prints; None where there is no such command, or it fails or takes too long."""
    given = environment(HELPER, os.environ)
    try:
        done = subprocess.run(list(words), capture_output=True, text=True, timeout=seconds, check=True, env=given)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout


@contextlib.contextmanager
def replaced(environment: Mapping[str, str]) -> Iterator[None]:
    """While entered, `os.environ` is `environment`: for libraries whose processes inherit it and can be told no other.

    Threads of ours that need the driver's own meanwhile ask `whole`. What a library sets meanwhile stays set.
    """
    global _whole  # noqa: PLW0603 - there is one environment of a process
    before = dict(os.environ)
    ours = {name: value for name, value in environment.items() if before.get(name) != value}
    _whole = before
    try:
        for name in before.keys() - environment.keys():
            del os.environ[name]
        os.environ.update(ours)
        yield
    finally:
        for name, value in ours.items():
            if os.environ.get(name) == value:
                del os.environ[name]
        for name, value in before.items():
            os.environ.setdefault(name, value)
        _whole = None


def whole() -> Mapping[str, str]:
    """The driver's environment, also while it is `replaced`."""
    return os.environ if _whole is None else _whole


@functools.cache
def _found(path: tuple[str, ...]) -> bool:
    """Whether a Python that is started with `path` finds this very code by itself: installed, or on that path."""
    if not sys.flags.safe_path:
        # The first entry is the folder of the script, or the working folder; what stands behind it others have too.
        spec = importlib.machinery.PathFinder.find_spec("study", sys.path[1:])
        if spec is not None and _is_ours(spec.origin) and str(_ROOT) not in sys.path[:1]:
            return True
    asked = "import importlib.util as u; s = u.find_spec('study'); print(s.origin if s else '')"
    given = {**os.environ, "PYTHONPATH": os.pathsep.join(path), "PYTHONSAFEPATH": "1"}
    try:
        said = subprocess.run(
            [sys.executable, "-c", asked], capture_output=True, text=True, timeout=_ASK_SECONDS, check=True, env=given
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return False
    return _is_ours(said.strip())


def _is_ours(origin: str | None) -> bool:
    return bool(origin) and Path(str(origin)).resolve() == (_HERE.parents[1] / "__init__.py")
