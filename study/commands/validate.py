"""`study validate`: check a spec, its models, its images and its run folder without running the study."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from study.errors import StudyError
from study.images import decoding
from study.images.image_sets import Candidate, candidates
from study.models.check import check_models
from study.models.reference import Model
from study.models.weights import locate
from study.planning.requests import check_requests, requests
from study.planning.standing import standing_lines, standing_of
from study.spec.schema import Spec
from study.spec.spec_file import SpecFile
from study.storage.run_folder import RunFolder
from study.terminal.prose import exactly, say
from study.terminal.screen import counted
from study.visibility.check import check_measures

_MISSING = {
    "not installed": "the package is not installed",
    "no file": "the file does not exist",
}


@dataclass(frozen=True)
class ValidateOptions:
    """The options of `study validate`.

    Attributes:
        images: The largest number of images to decode.
        allow_code: Whether Python code that the spec names may run.
        as_json: Whether to print JSON.
        output: The run folder that a launch would continue; None: `runs/<study>`.
    """

    images: int = 1000
    allow_code: bool = False
    as_json: bool = False
    output: Path | None = None


def print_validation(file: SpecFile, console: Console, options: ValidateOptions) -> None:
    """Check a spec and print a summary. Raises StudyError for the first problem that would stop a launch.

    One such problem is a run folder that belongs to another spec. If the run folder belongs to this spec, its progress
    is printed too.
    """
    spec = file.spec
    states = {name: _model(file, name, model, options) for name, model in spec.models.items()}
    found = _candidates(file)
    readable, unreadable = _read(file, found[: options.images])
    wanted = spec.images.count or 1
    if len(found) - len(unreadable) < wanted:
        raise StudyError(
            f"the study needs {counted(wanted, 'image')}, but only {len(found) - len(unreadable)} can be read",
            where=file.where("images", "count"),
            accepted=f"images.count up to {len(found) - len(unreadable)}",
            todo="add images; or, if any can be read, lower images.count",
        )
    images = min(spec.images.count or len(found), len(found))
    check_requests(spec, images, file.where)
    check_measures(spec.visibility, file.where)
    folder = RunFolder(options.output or Path("runs") / spec.study)
    report: dict[str, Any] = {
        "study": spec.study,
        "models": states,
        "images": {"found": len(found), "decoded": readable, "unreadable": unreadable},
        "attacks": len(_used(spec)),
        "experiments": list(spec.experiments),
        "download": [name for name, state in states.items() if state == "not cached"],
        "requests": {name: one.total for name, one in requests(spec, images).items()},
        "run": {"folder": str(folder.path), "standing": standing_of(file, folder, lambda: found)},
    }
    if options.as_json:
        exactly(console, json.dumps(report))
        return
    _print(file, report, console, options)


def _print(file: SpecFile, report: dict[str, Any], console: Console, options: ValidateOptions) -> None:
    images = report["images"]
    say(console, f"{file.document.name} is valid: {report['study']}")
    models = ", ".join(f"{name} ({state})" for name, state in report["models"].items())
    say(console, f"  {counted(len(report['models']), 'model')}: {models}")
    partly = "" if images["found"] <= options.images else f"; only the first {options.images:,} were decoded (--images)"
    say(console, f"  {counted(images['found'], 'image')}, {len(images['unreadable'])} unreadable{partly}")
    for image, why in images["unreadable"].items():
        say(console, f"    left out: {image}: {why}")
    tables = ", ".join(report["experiments"])
    say(
        console,
        f"  {counted(report['attacks'], 'attack')}, {counted(len(report['experiments']), 'experiment')}: {tables}",
    )
    for name, total in report["requests"].items():
        say(console, f"  {name} is sent up to {counted(total, 'request')}, not counting retries after failures")
    if report["download"]:
        say(console, f"  weights to download: {', '.join(report['download'])}: study fetch {file.document.name}")
    if report["run"]["standing"] is not None:
        for line in standing_lines(**report["run"]):
            say(console, f"  {line}")
    say(console, f"next: study plan {file.document.name}")


def _model(file: SpecFile, name: str, model: Model, options: ValidateOptions) -> str:
    """Return the state of a model's weights, such as `not cached`, or `service` for a remote model.

    Raises StudyError if the model is not available.
    """
    try:
        check_models({name: model}, file.spec.labels, file.where, allow_code=options.allow_code)
        if model.remote is not None:
            return "service"
        state = locate.state(model)
    except StudyError as error:
        raise error.located(file.where("models", name)) from None
    if state in _MISSING:
        raise StudyError(
            f"the weights of model '{name}' are missing: {_MISSING[state]}",
            where=file.where("models", name),
            todo="install the package, or correct `weights`",
        )
    return state


def _used(spec: Spec) -> set[str]:
    """Return the names of the attacks that a launch runs.

    These are the attacks of experiments and probes, and the attacks whose RMSD is the budget of another attack.
    """
    wanted = [name for one in spec.experiments.values() for name in one.attacks]
    wanted += [name for probe in spec.geometry.values() for name in probe.attacks]
    used: set[str] = set()
    while wanted:
        name = wanted.pop()
        reference = spec.attacks[name].budget.to
        if reference is not None and reference not in used:
            wanted.append(reference)
        used.add(name)
    return used


def _candidates(file: SpecFile) -> list[Candidate]:
    try:
        return candidates(file.spec.images, file.spec.seed, targeted=file.spec.targeted)
    except StudyError as error:
        raise error.located(file.where("images")) from None


def _read(file: SpecFile, found: list[Candidate]) -> tuple[int, dict[str, str]]:
    """Decode the images. Returns the number of decoded images, and the reason of failure for each other image."""
    unreadable: dict[str, str] = {}
    for one in found:
        try:
            decoding.read(one.file, file.spec.images)
        except StudyError as error:
            if file.spec.images.corrupt == "stop":
                raise error.located(file.where("images")) from None
            unreadable[one.image] = error.what
    return len(found) - len(unreadable), unreadable
