"""The function that `study.launch` calls. pyproject.toml names it as the entry point `default` of `study.launchers`."""

from __future__ import annotations

import contextlib
from pathlib import Path

from actors.launch.launch import launch
from actors.launch.options import LaunchOptions
from actors.launch.summary import COMPLETE, INCOMPLETE
from study.door.launching import LaunchOrder
from study.errors import StudyError
from study.process.interrupt import Interrupt, Interrupted
from study.report.failures import failures_of_last_launch
from study.reproducibility import numerics
from study.storage.run_folder import RunFolder
from study.terminal import style
from study.terminal.console import Console
from study.terminal.screen import counted

_CTRL_C = 130


def launch_order(order: LaunchOrder) -> None:
    """Run a study, or the unfinished part of a study, in the process of a Python program.

    Raises StudyError if the study is incomplete afterwards, KeyboardInterrupt after Ctrl-C, and SystemExit after any
    other signal to stop. If the order is inline, an error in the code of a model or an attack is raised unchanged.
    """
    options = LaunchOptions(
        spec=order.path,
        given=order.file,
        output=Path(order.output),
        address=order.address,
        allow_code=order.allow_code,
        style=style(quiet=order.quiet, json=False, shared=True),
        wandb=order.wandb,
        inline=order.inline,
        other_devices=order.other_devices,
    )
    with Interrupt(ends_process=False) as interrupt, contextlib.ExitStack() as stack:
        if order.inline:
            stack.enter_context(numerics.restored())
        try:
            # In a notebook, rich would print HTML, in which columns of text do not line up.
            status = launch(options, Console(force_jupyter=False))
        except Interrupted:
            status = interrupt.status or _CTRL_C
    if status == _CTRL_C:
        raise KeyboardInterrupt(f"stopped; finished work is kept in {order.output}")
    if status not in (COMPLETE, INCOMPLETE):
        raise SystemExit(status)
    if status == INCOMPLETE:
        raise _incomplete(RunFolder(order.output))


def _incomplete(folder: RunFolder) -> StudyError:
    failures = failures_of_last_launch(folder)
    todo = f"once the cause is fixed, launch again; study.load({str(folder.path)!r}) reads the finished rows"
    if not failures:
        return StudyError("the study is incomplete", where=str(folder.path), todo=todo, status=INCOMPLETE)
    first = failures[0]
    on = f" on {first.target}" if first.target else ""
    text = (first.error.splitlines() or ["no reason given"])[0]
    return StudyError(
        f"{counted(len(failures), 'failure')}; the first is {first.unit}{on}: {text}",
        where=str(folder.failures),
        todo=todo,
        status=INCOMPLETE,
    )
