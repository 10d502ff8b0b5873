"""`study.launch`: run a study from Python. What runs it is another package, which an entry point names."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import cast

from study.distribution import NAME as DISTRIBUTION
from study.distribution import require_own
from study.door.run import Run, load
from study.errors import StudyError, first_line
from study.spec import loading
from study.spec.schema import Spec
from study.spec.spec_file import SpecFile
from study.tracking.settings import Mode

GROUP, NAME = "study.launchers", "default"
"""The entry point of a `Launcher`."""

_GIVEN = "the spec given to study.launch"


@dataclass(frozen=True)
class LaunchOrder:
    """What a launcher gets.

    Attributes:
        file: The spec, validated.
        path: Its YAML file; None where a program has made it.
        output: The run folder, or its address.
        inline: Whether everything runs in this process, without Ray.
        allow_code: Whether Python code that the spec names may run.
        quiet: Whether only failures and the last line are printed.
        address: A Ray cluster; None for that of RAY_ADDRESS, or else a local Ray.
        wandb: The mode of tracking; None for that of the spec or of WANDB_MODE.
        other_devices: Whether a study may go on, on other devices than those that began it.
    """

    file: SpecFile
    path: Path | None
    output: str
    inline: bool
    allow_code: bool
    quiet: bool
    address: str | None
    wandb: Mode | None
    other_devices: bool = False


Launcher = Callable[[LaunchOrder], None]
"""Runs a study, or the rest of it. Raises StudyError unless all of it is done."""


def launch(
    spec: str | os.PathLike[str] | Mapping[str, object] | Spec,
    output: str | os.PathLike[str] | None = None,
    *,
    inline: bool = False,
    allow_code: bool = False,
    quiet: bool = False,
    address: str | None = None,
    wandb: Mode | None = None,
    other_devices: bool = False,
) -> Run:
    """Run a study, or the rest of it, as `study launch` does, and load its run.

    Args:
        spec: The YAML file of a study; or what such a file holds, as a dict; or a spec, such as that of another run.
        output: The run folder, or s3://bucket/prefix. By default `runs/<study>`.
        inline: Run everything in this process, without Ray and one call at a time, for notebooks and debuggers. An
            exception in the code of a model or an attack leaves this function as it was raised. The rows are the same.
        allow_code: Allow Python code that the spec names.
        quiet: Print failures and the last line only.
        address: The Ray cluster, `HOST:PORT`. By default that of RAY_ADDRESS, else a new Ray on this machine.
        wandb: Track on Weights & Biases. By default as the spec or WANDB_MODE says.
        other_devices: Go on with a run on another kind of GPU than began it, or on a processor in place of a GPU. The
            rows are then rounded differently, and every part records its device.

    Raises StudyError if the input is bad, or some units failed: the others are kept, and `study.load` reads them.
    Raises KeyboardInterrupt after Ctrl-C: what is finished is kept, and the same call goes on from there.
    """
    if inline and address is not None:
        raise StudyError(
            "inline=True runs everything in this process, and address= names a Ray cluster", accepted="one of them"
        )
    file, path = _spec_file(spec)
    folder = os.fspath(output) if output is not None else str(Path("runs") / file.spec.study)
    run = _launcher()
    run(LaunchOrder(file, path, folder, inline, allow_code, quiet, address, wandb, other_devices))
    return load(folder)


def _spec_file(given: str | os.PathLike[str] | Mapping[str, object] | Spec) -> tuple[SpecFile, Path | None]:
    if isinstance(given, str | os.PathLike):
        path = Path(given)
        return loading.load(path), path
    if isinstance(given, Spec):
        return loading.again(given, _GIVEN), None
    if isinstance(given, Mapping):
        return loading.from_data(given, _GIVEN), None
    raise StudyError(
        f"a spec cannot be a {type(given).__name__}",
        where="study.launch(spec)",
        accepted="the path of a YAML file, a dict with what such a file holds, or a study.Spec",
    )


def _launcher() -> Launcher:
    """What runs studies here. Raises StudyError if nothing is installed for that."""
    todo = f"pip install --force-reinstall --no-deps {DISTRIBUTION}, or `pip install --editable .` in a checkout"
    require_own("actors")
    found = metadata.entry_points(group=GROUP, name=NAME)
    if not found:
        raise StudyError(
            f"nothing that is installed here can launch a study: no package has the entry point {GROUP}: {NAME}",
            todo=todo,
        )
    try:
        return cast("Launcher", next(iter(found)).load())
    except (ImportError, AttributeError) as error:
        raise StudyError(
            f"what launches studies cannot be imported: {first_line(error)}",
            where=f"the entry point {GROUP}: {NAME}",
            todo=todo,
        ) from error
