"""The environment, module search path and limits of each child process.

No child imports modules from the working folder. By default, Python searches the working folder, or the folder of a
script, before all others. For children, `PYTHONSAFEPATH` switches this off, and empty entries of `PYTHONPATH` are
removed. Folders that the user names in `PYTHONPATH` stay.

No child gets the secret of another child. Variables are secret if a service names them as its credential, or if their
name contains `TOKEN` (but not `TOKENIZERS_`), `SECRET`, `PASSWORD`, `PASSWD`, `API_KEY`, `ACCESS_KEY` or `CREDENTIAL`:

- A service's credential is in no child's environment. The one actor that calls the service receives its value.
- `WANDB_…` goes to the W&B process only.
- `AWS_…` goes to the W&B process if the run is in an object store, because that process reads the run's parts there.
  Workers receive images from the driver and never read the store.
- `HF_…` and `HUGGING_FACE_…` go to Ray's processes, whose workers download weights; so does `RAY_…`.
- Proxy and certificate variables go to Ray's processes and the W&B process, because these may use the network.

Ray's processes and the W&B process get the rest of the driver's environment unchanged, because it configures libraries:
`CUDA_…`, `OMP_…`, `TORCH_HOME`, `LD_LIBRARY_PATH`. Small helpers get only the few variables that they need to start.
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
"""Prefixes of variables that only one kind of process gets, secret or not."""

_HERE = Path(__file__).resolve()
_ROOT = _HERE.parents[2]
_IMPORT_SECONDS = 60.0

_before: dict[str, str] | None = None


@dataclass(frozen=True)
class ProcessKind:
    """The environment and the priority of one kind of child process.

    Attributes:
        own: Prefixes of variables that these processes get even if they are secret or in `_OWNED`.
        only: The only variables of the driver that these processes get; None sets no such limit.
        sets: Variables that are set for these processes.
        defaults: Variables that are set for these processes unless the driver has a value.
        nice: The niceness of these processes. A higher number gives the study's own work priority.
    """

    own: tuple[str, ...] = ()
    only: tuple[str, ...] | None = None
    sets: Mapping[str, str] = field(default_factory=dict)
    defaults: Mapping[str, str] = field(default_factory=dict)
    nice: int = 0

    def gets(self, name: str) -> bool:
        """Whether these processes get the driver's variable `name`."""
        if self.only is not None:
            return name in self.only
        return name.startswith(self.own) or not (looks_secret(name) or name.startswith(_OWNED))


GPU_DEFAULTS = {"CUBLAS_WORKSPACE_CONFIG": ":4096:8", "PYTORCH_ALLOC_CONF": "expandable_segments:True"}
"""Variables of a process that computes on a GPU, unless the user sets them. The first makes matrix products
reproducible to the bit, as torch's deterministic mode requires. The second reduces fragmentation of GPU memory; if the
user sets `PYTORCH_CUDA_ALLOC_CONF`, its older name, torch uses that value."""

RAY = ProcessKind(own=("RAY_", "HF_", "HUGGING_FACE_"), defaults=GPU_DEFAULTS)
"""The daemons of a local Ray and its workers, which inherit from the daemons."""

_QUIET = {"WANDB_SILENT": "true", "WANDB_CONSOLE": "off", "WANDB_ERROR_REPORTING": "false", "POLARS_MAX_THREADS": "1"}

TRACKER = ProcessKind(own=("WANDB_",), sets=_QUIET, nice=15)
"""The W&B process and the service that W&B starts in it."""

TRACKER_OF_STORE = ProcessKind(own=("WANDB_", "AWS_"), sets=_QUIET, nice=15)
"""As `TRACKER`, for a run in an object store: these processes also get the `AWS_…` variables."""

HELPER = ProcessKind(only=("PATH", "LD_LIBRARY_PATH", "LANG", "LC_ALL", "TMPDIR"))
"""A small process that queries the machine or ends other processes."""


def looks_secret(name: str) -> bool:
    """Whether the name of a variable suggests that its value is secret."""
    return _SECRET.search(name) is not None


def environment(kind: ProcessKind, given: Mapping[str, str], hidden: Sequence[str] = ()) -> dict[str, str]:
    """Make the environment of a process.

    `given`: the driver's environment. `hidden`: the names of variables with credentials of services, which are removed.
    """
    made = {name: value for name, value in given.items() if name not in hidden and kind.gets(name)}
    made = {**kind.defaults, **made, **kind.sets, "PYTHONSAFEPATH": "1"}
    made.pop("PYTHONPATH", None)
    if kind.only is None:
        named = [os.path.abspath(one) for one in given.get("PYTHONPATH", "").split(os.pathsep) if one]
        path = [*([] if _importable(tuple(named)) else [str(_ROOT)]), *named]
        if path:
            made["PYTHONPATH"] = os.pathsep.join(path)
    return made


def start(
    words: Sequence[str], kind: ProcessKind, environment: Mapping[str, str], **streams: Any
) -> subprocess.Popen[bytes]:
    """Start a process in its own session, so that Ctrl-C reaches only the driver, which then ends the process."""
    process = subprocess.Popen(list(words), env=dict(environment), start_new_session=True, **streams)
    if kind.nice:
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, process.pid, kind.nice)
    return process


def module_command(name: str) -> list[str]:
    """The command line that runs module `name` of this project."""
    return [sys.executable, "-P", "-m", name]


def command_output(words: Sequence[str], seconds: float) -> str | None:
    """Return the output of a system command; None if the command does not exist, fails or takes more than `seconds`."""
    given = environment(HELPER, os.environ)
    try:
        done = subprocess.run(list(words), capture_output=True, text=True, timeout=seconds, check=True, env=given)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout


@contextlib.contextmanager
def replaced_environment(environment: Mapping[str, str]) -> Iterator[None]:
    """A context in which `os.environ` equals `environment`, for libraries whose child processes inherit it.

    In the context, `driver_environment` returns the driver's own environment. Variables that a library sets in the
    context stay set.
    """
    global _before  # noqa: PLW0603 - a process has one environment
    before = dict(os.environ)
    ours = {name: value for name, value in environment.items() if before.get(name) != value}
    _before = before
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
        _before = None


def driver_environment() -> Mapping[str, str]:
    """The driver's own environment, even inside `replaced_environment`."""
    return os.environ if _before is None else _before


@functools.cache
def _importable(path: tuple[str, ...]) -> bool:
    """Whether a Python process with `path` as PYTHONPATH imports this code, because it is installed or on that path."""
    if not sys.flags.safe_path:
        # Children have the same entries except the first, which is the folder of the script or the working folder.
        spec = importlib.machinery.PathFinder.find_spec("study", sys.path[1:])
        if spec is not None and _is_ours(spec.origin) and str(_ROOT) not in sys.path[:1]:
            return True
    code = "import importlib.util as u; s = u.find_spec('study'); print(s.origin if s else '')"
    given = {**os.environ, "PYTHONPATH": os.pathsep.join(path), "PYTHONSAFEPATH": "1"}
    try:
        origin = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, timeout=_IMPORT_SECONDS, check=True, env=given
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return False
    return _is_ours(origin.strip())


def _is_ours(origin: str | None) -> bool:
    return bool(origin) and Path(str(origin)).resolve() == (_HERE.parents[1] / "__init__.py")
