"""What the scheduler asks of whatever runs actors: Ray, or this process."""

from __future__ import annotations

import traceback as tracebacks
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from actors.resources.placement import Machine, ResourceRequest, Role
from actors.workers.worker_config import WorkerConfig
from study.errors import StudyError

Ref = Hashable
"""Stands for a value that a call will have, or for pixels, wherever they lie."""


@dataclass(frozen=True)
class Device:
    """What an actor computes on: the machine as the backend knows it and as people do, and which part of it."""

    node: str
    host: str
    name: str
    gpu: bool = False

    def __str__(self) -> str:
        return f"{self.name} of {self.host}"


@dataclass(frozen=True)
class Here:
    """What an actor says once it is up: where it runs, and what its work has `said`."""

    device: Device
    said: Any


class CallFailed(Exception):
    """A call raised, or an actor could not be made. Survives pickling, whatever was raised."""

    def __init__(self, what: str, traceback: str = "", device: Device | None = None) -> None:
        """`what` is the cause in one line, `traceback` all that Python says of it, `device` where it happened."""
        super().__init__(what, traceback, device)
        self.what = what
        self.traceback = traceback
        self.device = device

    def __str__(self) -> str:
        return self.what

    @classmethod
    def of(cls, error: BaseException, device: Device | None = None) -> CallFailed:
        """What is left of `error` once it has to travel."""
        said = (str(error).strip().splitlines() or [""])[0]
        kind = type(error).__name__
        return cls(f"{kind}: {said}" if said else kind, "".join(tracebacks.format_exception(error)).strip(), device)


class ActorLost(Exception):
    """The actor died: process, machine or network. The call may or may not have been carried out."""


class MachineLost(ActorLost):
    """The actor died with its machine: neither it nor what it was at is to blame."""


class BackendGone(StudyError):
    """What runs actors hangs or is dead: no call will be answered any more. A study that has begun ends with it."""

    def __init__(self, what: str, **more: Any) -> None:
        super().__init__(what, **more | {"status": 1})


class MemoryLost(ActorLost):
    """The actor was ended because its machine had no memory left, whoever took it."""


class PixelsLost(Exception):
    """The pixels that a call needed are nowhere any more: their machine is gone."""


@dataclass(frozen=True)
class Call:
    """A started call: `value` is small and fetched by the driver, `pixels` only ever forwarded."""

    value: Ref
    pixels: Ref | None


class Backend(Protocol):
    """Actors somewhere. No method but `wait`, `value` and `close` blocks."""

    name: str

    def machines(self) -> list[Machine]:
        """The machines that there are now."""

    def start(self, role: Role, share: ResourceRequest, kit: WorkerConfig) -> Any:
        """A new actor of `role`."""

    def hello(self, actor: Any) -> Ref:
        """A call that is answered when the actor is up."""

    def call(self, actor: Any, method: str, arguments: Sequence[Any], pixels: Ref) -> Call:
        """`actor.craft(*arguments, pixels)`, whose call has pixels of its own, `actor.predict` or `actor.probe`."""

    def wait(self, refs: Sequence[Ref], seconds: float) -> list[Ref]:
        """Those of `refs` that are ready, as soon as there is one, or none after `seconds`."""

    def value(self, ref: Ref) -> Any:
        """What a ready call came to. Raises ActorLost, PixelsLost, CallFailed, or the call's own StudyError."""

    def pixels(self, ref: Ref) -> NDArray[np.uint8]:
        """The pixels themselves, read-only: for what the driver keeps. May block. Raises PixelsLost."""

    def put(self, pixels: NDArray[np.uint8]) -> Ref:
        """Pixels where every actor can read them."""

    def stop(self, actor: Any) -> None:
        """End an actor, at once."""

    def set_aside(self, device: Device, actors: Sequence[Any]) -> None:
        """Use `device` no more, nor `actors`, which are all on it; `machines` leave it out from now on."""

    def close(self) -> None:
        """End everything that this backend started."""
