"""`study dashboard`: make a W&B workspace for one study, with the study's matrix, rates and speed."""

from __future__ import annotations

import importlib.util
import os
from typing import Any

from rich.console import Console

from study.distribution import installing
from study.errors import StudyError
from study.results.run_reader import open_run
from study.spec.schema import Spec
from study.storage.run_folder import RunFolder
from study.terminal.prose import exactly
from study.tracking.settings import project

_KEY = "set WANDB_API_KEY, or run `wandb login` once"


def dashboard(run: str, console: Console) -> None:
    """Make a workspace for the run in folder `run`, and print its URL.

    Raises StudyError if the study was not tracked, a package or the key is missing, or W&B refuses.
    """
    spec = open_run(run).spec
    if not RunFolder(run).tracked.is_file():
        raise StudyError(
            f"{run} was never tracked",
            todo="launch the study with --wandb online; this also works for a complete study",
        )
    for package in ("wandb", "wandb_workspaces"):
        if importlib.util.find_spec(package) is None:
            raise StudyError(f"a dashboard needs the package {package}", todo=installing("dashboard"))
    if os.environ.get("WANDB_MODE") in {"offline", "disabled"}:
        raise StudyError(
            "W&B's server makes the dashboard, but WANDB_MODE disables uploads",
            todo="unset WANDB_MODE, and upload the run before this command",
        )
    try:
        address = _saved(spec)
    except StudyError:
        raise
    except Exception as error:  # noqa: BLE001 - W&B raises errors of many kinds
        said = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise StudyError(f"W&B did not make the dashboard: {said}", todo=f"check the network; {_KEY}") from None
    exactly(console, address)


def _saved(spec: Spec) -> str:
    import wandb
    from wandb_workspaces import workspaces

    if not wandb.login(prompt=False):
        raise StudyError("there is no key for W&B on this machine", todo=_KEY)
    entity = spec.tracking.entity or os.environ.get("WANDB_ENTITY") or wandb.Api(timeout=10).default_entity
    made = workspaces.Workspace(
        entity=str(entity),
        project=project(spec.tracking, os.environ),
        name=spec.study,
        sections=sections(spec),
        runset_settings=workspaces.RunsetSettings(query=spec.study),
    )
    made.save()  # type: ignore[no-untyped-call]
    return str(made.url)


def sections(spec: Spec) -> list[Any]:
    """Return the sections of the W&B workspace: matrix, success rates of each experiment, speed, failures."""
    import wandb_workspaces.reports.v2 as reports
    from wandb_workspaces import workspaces

    def lines(title: str, *metrics: str, below: str = "live/units_done") -> Any:
        return reports.LinePlot(title=title, x=below, y=list(metrics))

    rates = [
        lines(
            f"{name}, {goal}",
            *(f"transfer/{name}-{goal}/{box}" for box in ("black_box", "grey_box", "white_box")),
            below="units",
        )
        for name, experiment in spec.experiments.items()
        for goal in dict.fromkeys(experiment.goal)
    ]
    matrix = [reports.MediaBrowser(media_keys=["matrix_picture"]), reports.WeavePanelSummaryTable(table_name="matrix")]
    speed = [
        lines("per second", *(f"live/{what}_per_second" for what in ("units", "images", "gradients"))),
        lines("share of time at work", "live/busy"),
        lines("waiting", "live/waiting_crafts", "live/waiting_batches", "live/queued_calls"),
        lines("MiB of batches that wait", "live/waiting_mib"),
        lines("seconds left", "live/eta_seconds"),
    ]
    wrong = [lines("failures, retries, lost actors", "live/failures", "live/retries", "live/lost_actors")]
    named: dict[str, list[Any]] = {"Matrix": matrix, "Transfer": rates, "Speed": speed, "Trouble": wrong}
    return [workspaces.Section(name=name, panels=panels, is_open=True) for name, panels in named.items()]
