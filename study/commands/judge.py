"""`study judge`: judge the stored answers of a run's chat services again, without asking the services."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from study.errors import StudyError
from study.results.rejudge import rejudge
from study.spec.spec_file import SpecFile
from study.storage.no_run import no_run
from study.storage.run_folder import RunFolder
from study.terminal.prose import say
from study.terminal.screen import counted


def judge_run(run: str, file: SpecFile, output: Path, console: Console) -> None:
    """Judge the stored answers of a run's chat services again, and write the run with the new verdicts to `output`.

    `run`: the run folder. `file`: a spec with the new judges. `output`: a new folder. Raises StudyError if there is no
    run, if another process uses the run folder, or if `rejudge` raises StudyError.
    """
    folder = RunFolder(run)
    if not folder.begun:
        raise no_run(folder.path, f"{folder.path} is not a run folder")
    folder.claim(lambda line: say(console, line))
    try:
        told = rejudge(folder, file.spec, output)
    except StudyError as error:
        raise error if error.where else error.located(str(folder.path)) from None
    finally:
        folder.release()
    for name, answers in told.answers.items():
        say(console, f"{name}: {counted(answers, 'answer')} judged again, {told.changed[name]:,} with another verdict")
    say(console, f"next: study show {output}")
