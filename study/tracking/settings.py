"""Settings of tracking, from the command line, the spec and the environment."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from typing import Annotated, Any, Literal, get_args

from pydantic import Field, field_validator

from study.distribution import installing
from study.errors import StudyError, names
from study.spec.frozen import Frozen

Mode = Literal["disabled", "offline", "online"]
MODES: tuple[Mode, ...] = get_args(Mode)

Words = Annotated[tuple[str, ...], Field(strict=False)]


class Tracking(Frozen):
    """Tracking on Weights & Biases. It changes no pixel and no result row.

    `wandb` is `online`, `offline` (files that `wandb sync` uploads later) or `disabled`. If `wandb` is absent, the
    environment variable `WANDB_MODE` decides. If this variable is absent too, nothing is tracked. `project` defaults to
    the environment variable `WANDB_PROJECT`, and without it to `study`. `entity` defaults to the owner of the key. W&B
    shows studies with the same `group` together.
    """

    wandb: Mode | None = None
    project: str | None = None
    entity: str | None = None
    group: str | None = None
    tags: Words = ()

    @field_validator("tags", mode="before")
    @classmethod
    def _one_is_a_list(cls, given: Any) -> Any:
        return [given] if isinstance(given, str) else given


def check(given: str) -> Mode:
    """Return `given`, which is a mode of tracking. Raises StudyError if there is no such mode."""
    for mode in MODES:
        if given == mode:
            return mode
    raise StudyError(f"W&B has no mode '{given}'", where="--wandb", accepted=names(MODES, given))


def mode(tracking: Tracking, asked: str | None, environment: Mapping[str, str]) -> Mode:
    """Return the mode of tracking from the command line, else from the spec, else from `WANDB_MODE`, else `disabled`.

    `asked`: the mode on the command line; None if there is none. A W&B key alone does not switch tracking on. W&B has
    further modes: if `WANDB_MODE` names one of them, the mode is `disabled`.
    """
    if asked is not None:
        return check(asked)
    if tracking.wandb is not None:
        return tracking.wandb
    from_environment = environment.get("WANDB_MODE", "")
    return next((one for one in MODES if one == from_environment), "disabled")


def require_package() -> None:
    """Raise StudyError if the Python package `wandb` is not installed."""
    found = importlib.util.find_spec("wandb")
    # A W&B run may leave a folder `wandb` without code. `find_spec` finds this folder too, but without an origin.
    if found is None or found.origin is None:
        raise StudyError("tracking on Weights & Biases needs the package wandb", todo=installing("wandb"))


def project(tracking: Tracking, environment: Mapping[str, str]) -> str:
    """Return the name of the W&B project: from the spec, else from `WANDB_PROJECT`, else `study`."""
    return tracking.project or environment.get("WANDB_PROJECT") or "study"
