"""The interface of backends, and the errors that they raise.

A backend runs actors: on Ray, in this process, or in a simulation.
"""

from __future__ import annotations

import traceback as tracebacks
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from actors.resources.placement import Machine, ResourceRequest, Role
from actors.workers.worker_config import WorkerConfig
from study.errors import StudyError

Ref = Hashable
"""A reference to the value that a call will return, or to pixels. Only the backend knows where the value is stored."""


@dataclass(frozen=True)
class Device:
    """The device of an actor.

    Attributes:
        node: The backend's id of the machine.
        host: The host name of the machine.
        name: The name of the processor or GPU.
        gpu: Whether the device is a GPU.
    """

    node: str
    host: str
    name: str
    gpu: bool = False

    def __str__(self) -> str:
        return f"{self.name} of {self.host}"


@dataclass(frozen=True)
class ActorInfo:
    """The first answer of an actor.

    Attributes:
        device: The device of the actor.
        answer: What the `hello` of the actor's worker returned.
        gpu_memory: Bytes of the actor's GPU, as the actor's process sees it; None without a GPU.
    """

    device: Device
    answer: Any
    gpu_memory: float | None = None


class CallFailed(Exception):
    """A call raised an error, or an actor could not be created.

    This error can be pickled even if the original error cannot.
    """

    def __init__(self, what: str, traceback: str = "", device: Device | None = None) -> None:
        """`what`: the cause in one line. `traceback`: the traceback as text. `device`: where the error happened."""
        super().__init__(what, traceback, device)
        self.what = what
        self.traceback = traceback
        self.device = device

    def __str__(self) -> str:
        return self.what

    @classmethod
    def of(cls, error: BaseException, device: Device | None = None) -> CallFailed:
        """Return a CallFailed that describes `error` as text, so that it can be sent between processes."""
        message = (str(error).strip().splitlines() or [""])[0]
        kind = type(error).__name__
        whole = "".join(tracebacks.format_exception(error)).strip()
        return cls(f"{kind}: {message}" if message else kind, whole, device)


class ActorLost(Exception):
    """The actor died: its process, its machine or the network failed. The call may have been executed or not."""


class MachineLost(ActorLost):
    """The actor died together with its machine. Neither the actor nor its call is to blame."""


class MemoryLost(ActorLost):
    """The actor was killed because its machine ran out of memory. Any process there may have used the memory."""


class DeviceLost(ActorLost):
    """The device of the actor failed, and the process of the actor cannot use the device any more.

    The call counts as the cause only after several such failures. This error can be pickled even if the original error
    cannot.
    """

    def __init__(self, what: str, traceback: str, device: Device) -> None:
        """The arguments are those of CallFailed."""
        super().__init__(what, traceback, device)
        self.what = what
        self.traceback = traceback
        self.device = device

    def __str__(self) -> str:
        return f"{self.device} failed: {self.what}"


class BackendGone(StudyError):
    """The backend hangs or is dead, and will answer no further call. This error ends a running study with status 1."""

    def __init__(self, what: str, **more: Any) -> None:
        super().__init__(what, **more | {"status": 1})


class PixelsLost(Exception):
    """The pixels that a call needs no longer exist, because the machine that held them is gone."""


class BundleFailed(Exception):
    """A bundle failed as a whole, and any of its calls may be the cause. Each call must be started again alone."""


class CallRequest(NamedTuple):
    """A call to start: `actor.<method>(*arguments, pixels)`, where `pixels` stands for the images themselves.

    Attributes:
        method: `predict`, `probe` or `craft`.
        arguments: The arguments of the call, without the images.
        pixels: The reference to the images.
    """

    method: str
    arguments: Sequence[Any]
    pixels: Ref


@dataclass(frozen=True)
class Call:
    """A call that was started.

    Attributes:
        value: The reference to the result. The result is small, and the driver fetches it.
        pixels: The reference to the adversarial images, which go from actor to actor and not through the driver. None
            if the call returns no images.
    """

    value: Ref
    pixels: Ref | None


@dataclass(frozen=True)
class Scaling:
    """The state of a cluster's autoscaler. `coming`: the number of machines that are about to join."""

    coming: int = 0


class Backend(Protocol):
    """Runs actors. Only `machines`, `wait`, `value`, `pixels` and `close` may wait for actors, machines or pixels."""

    name: str
    fixed: bool
    """Whether no further machine can join."""

    def machines(self) -> list[Machine]:
        """Return the machines that are available now."""

    def scaling(self) -> Scaling | None:
        """Return the state of the autoscaler; None if there is no autoscaler."""

    def request(self, workers: int, resources: ResourceRequest) -> None:
        """Ask the autoscaler for machines that can hold `workers` workers in all; 0 withdraws earlier requests.

        `resources`: what each worker reserves.
        """

    def start(self, role: Role, resources: ResourceRequest, config: WorkerConfig) -> Any:
        """Start an actor of `role`, and return the handle of the actor."""

    def hello(self, actor: Any) -> Ref:
        """Start the first call of an actor, which returns once the actor is up. Returns the reference of the call."""

    def call(self, actor: Any, method: str, arguments: Sequence[Any], pixels: Ref) -> Call:
        """Start the call `actor.<method>(*arguments, pixels)`, without waiting for it.

        `method`: `predict`, `probe` or `craft`. Only `craft` also returns pixels.
        """

    def bundle(self, actor: Any, requests: Sequence[CallRequest]) -> list[Call]:
        """Start several short calls of one actor together, which costs little more than one call.

        The actor executes them in the order of `requests`. Their answers may arrive together, after the last call. If
        the actor dies, any of them may be the cause.
        """

    def activity(self, actor: Any) -> str:
        """Return the progress of an actor's call, as last reported, such as `step 34 of 100`; empty if unknown."""

    def wait(self, refs: Sequence[Ref], seconds: float) -> list[Ref]:
        """Wait until at least one of `refs` is ready, `seconds` at most. Returns all references that are ready."""

    def value(self, ref: Ref) -> Any:
        """Return the value of a call that is ready.

        Raises ActorLost, PixelsLost, CallFailed, or the StudyError of the call; for a call of a bundle also
        BundleFailed. If the device failed, this raises CallFailed for a call of `hello`, and DeviceLost for every other
        call.
        """

    def pixels(self, ref: Ref) -> NDArray[np.uint8]:
        """Fetch pixels to the driver, and return them as a read-only array. Raises PixelsLost if they are gone."""

    def put(self, pixels: NDArray[np.uint8]) -> Ref:
        """Store pixels where every actor can read them, and return a reference to them."""

    def stop(self, actor: Any) -> None:
        """Kill an actor."""

    def set_aside(self, device: Device, actors: Sequence[Any]) -> None:
        """Stop using `device` and the `actors` on it. From now on, `machines` does not count the device.

        This method may be called again with the same device, if another actor was started there in the meantime.
        """

    def close(self) -> None:
        """End everything that this backend has started."""
