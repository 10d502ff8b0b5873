"""Whether a study is tracked, and where: the spec, the command line and the environment, in one answer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, get_args

from pydantic import Field, field_validator

from study.errors import StudyError, names
from study.spec.frozen import Frozen

Mode = Literal["disabled", "offline", "online"]
MODES: tuple[Mode, ...] = get_args(Mode)

Words = Annotated[tuple[str, ...], Field(strict=False)]


class Tracking(Frozen):
    """Where the study is tracked: no pixel and no row depends on it.

    `wandb` is `online`, `offline` (files that `wandb sync` uploads later) or `disabled`; left out, the environment's
    `WANDB_MODE` decides, and nothing is tracked where that is not set either. `project` is `WANDB_PROJECT` or `study`
    unless given, `entity` the one that the key belongs to. `group` puts several studies together.
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
    """`given` as a mode. Raises StudyError where there is none of that name."""
    for mode in MODES:
        if given == mode:
            return mode
    raise StudyError(f"W&B has no mode '{given}'", where="--wandb", accepted=names(MODES, given))


def mode(tracking: Tracking, asked: str | None, environment: Mapping[str, str]) -> Mode:
    """What is asked for on the command line, else in the spec, else by `WANDB_MODE`; else `disabled`.

    A key alone asks for nothing: a study that nobody wanted to upload stays on its machine. A value of `WANDB_MODE`
    that is none of the three (W&B has others, for its own tests) counts as `disabled`.
    """
    if asked is not None:
        return check(asked)
    if tracking.wandb is not None:
        return tracking.wandb
    from_environment = environment.get("WANDB_MODE", "")
    return next((one for one in MODES if one == from_environment), "disabled")


def project(tracking: Tracking, environment: Mapping[str, str]) -> str:
    """The W&B project that the run belongs to."""
    return tracking.project or environment.get("WANDB_PROJECT") or "study"
