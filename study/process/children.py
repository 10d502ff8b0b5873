"""Starts child processes, and sets their environment, module search path and priority.

A child process imports no modules from the working folder. By default, Python first searches the working folder, or the
folder of a script. For child processes, `PYTHONSAFEPATH` switches this off, and empty entries of `PYTHONPATH` are
removed. Folders that the user names in `PYTHONPATH` stay.

A child process gets only the secrets that it needs. A variable is secret if a service names it as its credential, or if
its name contains `TOKEN` (but not `TOKENIZERS_`), `SECRET`, `PASSWORD`, `PASSWD`, `API_KEY`, `ACCESS_KEY` or
`CREDENTIAL`. The rules are:

- A service's credential is in no child's environment. The driver sends its value to the one actor that calls the
  service.
- `WANDB_…` variables go to the W&B process only.
- `AWS_…` variables go to the W&B process if the run is in an object store, because the W&B process reads rows there.
  Workers receive images from the driver and never read the store.
- `HF_…` and `HUGGING_FACE_…` variables go to Ray's processes, because Ray's workers download weights. `RAY_…` variables
  go there too.
- Proxy and certificate variables go to Ray's processes and to the W&B process, because they may use the network.

All other variables of the driver go to Ray's processes and to the W&B process unchanged, because they configure
libraries: `CUDA_…`, `OMP_…`, `TORCH_HOME`, `LD_LIBRARY_PATH`. Small helpers get only the few variables that they need
to start.
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
"""Prefixes of variables. A process gets such a variable, secret or not, only if `ProcessKind.own` has the prefix."""

_HERE = Path(__file__).resolve()
_ROOT = _HERE.parents[2]
_IMPORT_SECONDS = 60.0

_before: dict[str, str] | None = None


@dataclass(frozen=True)
class ProcessKind:
    """The environment and the priority of one kind of child process.

    Attributes:
        own: Prefixes of variables that these processes get even if the variables are secret or have a prefix in
            `_OWNED`.
        only: The names of the only variables of the driver that these processes get; None: there is no such limit.
        sets: Variables that are set for these processes, with their values.
        defaults: Variables that are set for these processes if the driver has no value for them.
        nice: The niceness of these processes. With a higher number, these processes yield the CPU to the study's work.
    """

    own: tuple[str, ...] = ()
    only: tuple[str, ...] | None = None
    sets: Mapping[str, str] = field(default_factory=dict)
    defaults: Mapping[str, str] = field(default_factory=dict)
    nice: int = 0

    def gets(self, name: str) -> bool:
        """Return whether processes of this kind get the driver's environment variable `name`."""
        if self.only is not None:
            return name in self.only
        return name.startswith(self.own) or not (looks_secret(name) or name.startswith(_OWNED))


GPU_DEFAULTS = {"CUBLAS_WORKSPACE_CONFIG": ":4096:8", "PYTORCH_ALLOC_CONF": "expandable_segments:True"}
"""Default values of variables for a process that computes on a GPU. `CUBLAS_WORKSPACE_CONFIG` makes matrix products
reproducible to the bit, as torch's deterministic mode requires. `PYTORCH_ALLOC_CONF` reduces fragmentation of GPU
memory. If the user sets `PYTORCH_CUDA_ALLOC_CONF`, the older name of this variable, torch uses the user's value."""

RAY = ProcessKind(own=("RAY_", "HF_", "HUGGING_FACE_"), defaults=GPU_DEFAULTS)
"""The kind of the daemons of a local Ray. The workers of this Ray inherit the environment of the daemons."""

_QUIET = {"WANDB_SILENT": "true", "WANDB_CONSOLE": "off", "WANDB_ERROR_REPORTING": "false", "POLARS_MAX_THREADS": "1"}

TRACKER = ProcessKind(own=("WANDB_",), sets=_QUIET, nice=15)
"""The kind of the W&B process, which tracks a study, and of the service process that W&B starts from it."""

TRACKER_OF_STORE = ProcessKind(own=("WANDB_", "AWS_"), sets=_QUIET, nice=15)
"""The kind of the W&B process for a run in an object store: as `TRACKER`, but with the `AWS_…` variables."""

HELPER = ProcessKind(only=("PATH", "LD_LIBRARY_PATH", "LANG", "LC_ALL", "TMPDIR"))
"""The kind of a small process that queries the machine, ends other processes, or reports their end."""


def looks_secret(name: str) -> bool:
    """Return whether the name of an environment variable suggests that its value is secret."""
    return _SECRET.search(name) is not None


def environment(kind: ProcessKind, given: Mapping[str, str], hidden: Sequence[str] = ()) -> dict[str, str]:
    """Return the environment for a child process of the kind `kind`.

    `given`: the driver's environment. `hidden`: the names of variables with credentials of services, which the child
    process does not get.
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
    """Start a process with the command line `words` in its own session, and return the process.

    In its own session, the process does not receive Ctrl-C. The driver receives Ctrl-C and ends the process. `streams`:
    further arguments of `subprocess.Popen`.
    """
    process = subprocess.Popen(list(words), env=dict(environment), start_new_session=True, **streams)
    if kind.nice:
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, process.pid, kind.nice)
    return process


def module_command(name: str) -> list[str]:
    """Return the command line that runs the module `name` of this project."""
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
    """Return a context in which `os.environ` equals `environment`, for libraries whose child processes inherit it.

    In the context, `driver_environment` returns the driver's own environment. A variable that a library sets in the
    context keeps its new value afterwards. All other variables get the driver's values back.
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
    """Return the driver's own environment variables, even inside `replaced_environment`."""
    return os.environ if _before is None else _before


@functools.cache
def _importable(path: tuple[str, ...]) -> bool:
    """Return whether `import study` in a Python process with `path` as PYTHONPATH imports this copy of the project."""
    if not sys.flags.safe_path:
        # A child process has the same search path without its first entry: the folder of the script, or the working
        # folder.
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
