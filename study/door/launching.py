"""`study.launch` runs a study from Python. The code that does the work is in another package.

This module finds that code through an entry point, because the package `study` never imports Ray.
"""

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
"""The group and the name of the entry point that leads to a `Launcher`."""

_GIVEN = "the spec given to study.launch"


@dataclass(frozen=True)
class LaunchOrder:
    """The argument of a launcher: the spec and the options of a launch.

    Attributes:
        file: The validated spec.
        path: The YAML file of the spec; None if the spec comes from Python.
        output: The path of the run folder, or its address in an object store.
        inline: Whether everything runs in this process, without Ray.
        allow_code: Whether Python code that the spec names may run.
        quiet: Whether only failures, repairs and the last line are printed.
        address: The address of a Ray cluster; None: RAY_ADDRESS, or else a local Ray.
        wandb: The mode of tracking on Weights & Biases; None: as the spec says, or else WANDB_MODE.
        other_devices: Whether the study may continue on devices that differ from those of earlier launches.
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
"""A function that runs a study, or its unfinished part. It raises StudyError if the study is incomplete afterwards."""


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
    """Run a study, or its unfinished part, as the command `study launch` does, and return the loaded run.

    Args:
        spec: The YAML file of a study; the content of such a file as a dict; or a `study.Spec`, such as `run.spec`.
        output: The run folder, or s3://bucket/prefix. By default `runs/<study>`.
        inline: Run everything in this process, without Ray and one call at a time, for notebooks and debuggers. An
            exception in the code of a model or an attack is raised unchanged. The rows are the same.
        allow_code: Allow Python code that the spec names.
        quiet: Print only failures, repairs and the last line.
        address: The address of a Ray cluster, `HOST:PORT`. By default RAY_ADDRESS, else a new Ray on this machine.
        wandb: The mode of tracking on Weights & Biases. By default as the spec says, else as WANDB_MODE says.
        other_devices: Continue a run on devices that differ from those of earlier launches, such as another kind of
            GPU, or a CPU instead of a GPU. New rows are then rounded differently. Each Parquet file of rows records its
            device.

    Raises StudyError if the input is bad, or if some units (attack runs on a few images) failed. The rows of all other
    units are kept, and `study.load` reads them. Raises KeyboardInterrupt after Ctrl-C, and SystemExit after another
    signal to stop. Finished work is kept, and the same call continues the study.
    """
    if inline and address is not None:
        raise StudyError(
            "inline=True and address= exclude each other: inline=True runs everything in this process, without Ray",
            accepted="one of the two arguments",
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
        accepted="the path of a YAML file, a dict with the content of such a file, or a study.Spec",
    )


def _launcher() -> Launcher:
    """Return the launcher that the entry point names. Raises StudyError if there is no such entry point."""
    todo = f"pip install --force-reinstall --no-deps {DISTRIBUTION}, or `pip install --editable .` in a checkout"
    require_own("actors")
    found = metadata.entry_points(group=GROUP, name=NAME)
    if not found:
        raise StudyError(
            f"no installed package can launch a study: none has the entry point {GROUP}: {NAME}",
            todo=todo,
        )
    try:
        return cast("Launcher", next(iter(found)).load())
    except (ImportError, AttributeError) as error:
        raise StudyError(
            f"the code that launches studies cannot be imported: {first_line(error)}",
            where=f"the entry point {GROUP}: {NAME}",
            todo=todo,
        ) from error
