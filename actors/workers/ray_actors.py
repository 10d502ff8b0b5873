"""Workers behind Ray: what they are asked and what they answer travels as one plain pickle.

Ray's own pickler takes twice as long for what is small, and is asked once for every argument.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import socket
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from actors.backends.interface import CallFailed, Device, Here
from actors.workers import code_digest
from actors.workers.service_worker import Asker
from actors.workers.worker import Worker
from study.errors import StudyError
from study.events import repairs


def packed(value: Any) -> bytes:
    """A message. Pixels never travel in one: they stay where they are until an actor reads them."""
    return pickle.dumps(value, protocol=5)


def unpacked(message: bytes) -> Any:
    """What a message says: from an actor of our own, or from the driver that started it."""
    return pickle.loads(message)


class Answered(NamedTuple):
    """What a call comes to, and what was mended on the way to it."""

    value: Any
    mended: list[repairs.Repair]


def answered(value: Any) -> bytes:
    """The message that an actor answers a call with."""
    return packed(Answered(value, repairs.taken()))


def heard(message: bytes) -> Any:
    """The value of an actor's answer, or its greeting; what the actor has mended is told by this process."""
    said = unpacked(message)
    if not isinstance(said, Answered):
        return said
    repairs.hear(said.mended)
    return said.value


class WorkerActor:
    """The actor of a worker. What goes wrong leaves it as a StudyError, or as a CallFailed with its cause.

    An error while it is made waits for `hello`: Ray would tell it as the death of the actor.
    """

    kind: ClassVar[type[Any]] = Worker

    def __init__(self, kit: bytes, device: str, wanted: str, node: Callable[[], str]) -> None:
        """`kit` is a packed Kit, which code that is not the driver's, whose digest is `wanted`, may be unable to read.

        `node` is asked here for the machine's name in Ray.
        """
        self._device = Device(node(), socket.gethostname(), _part(device), device != "cpu")
        self._work: Any = None
        self._broken: CallFailed | StudyError | None = None
        if code_digest.running().digest != wanted:
            return
        try:
            with self._told():
                self._work = self.kind(unpacked(kit), device)
        except (CallFailed, StudyError) as error:
            self._broken = error

    def hello(self) -> bytes:
        if self._broken is not None:
            raise self._broken
        with self._told():
            return packed(code_digest.greeting(None if self._work is None else Here(self._device, self._work.hello())))

    def craft(self, asked: bytes, pixels: NDArray[np.uint8]) -> tuple[bytes, NDArray[Any]]:
        with self._told():
            made, finished = self._work.craft(*_arguments(asked), pixels)
            return answered(made), finished

    def predict(self, asked: bytes, pixels: NDArray[Any]) -> bytes:
        with self._told():
            return answered(self._work.predict(*_arguments(asked), pixels))

    def probe(self, asked: bytes, pixels: NDArray[np.uint8]) -> bytes:
        with self._told():
            return answered(self._work.probe(*_arguments(asked), pixels))

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        """Errors of any kind become such as travel: many cannot be pickled, or not read back where they are seen."""
        try:
            yield
        except StudyError:
            raise
        except Exception as error:  # noqa: BLE001 - raised again, whole
            raise CallFailed.of(error, self._device) from None


class AskerActor(WorkerActor):
    """The actor of a remote service."""

    kind = Asker


def _arguments(asked: bytes) -> Sequence[Any]:
    arguments: Sequence[Any] = unpacked(asked)
    return arguments


def _part(device: str) -> str:
    """Which part of a machine an actor computes on: Ray shows each its own GPUs, by their numbers."""
    return "the processor" if device == "cpu" else f"GPU {os.environ.get('CUDA_VISIBLE_DEVICES', '0')}"
