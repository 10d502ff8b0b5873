"""Workers behind Ray: what they are asked and what they answer travels as one plain pickle.

Ray's own pickler takes twice as long for what is small, and is asked once for every argument.
"""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from actors import code
from actors.asker import Asker
from actors.worker import Worker
from study import repairs


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
    """The actor of a worker."""

    kind: ClassVar[type[Any]] = Worker

    def __init__(self, kit: bytes, device: str, wanted: str) -> None:
        """`kit` is packed: code that is not the driver's, whose digest is `wanted`, may not even be able to read it."""
        self._work: Any = self.kind(unpacked(kit), device) if code.running().digest == wanted else None

    def hello(self) -> bytes:
        return packed(code.greeting(None if self._work is None else self._work.hello()))

    def craft(self, asked: bytes, pixels: NDArray[np.uint8]) -> tuple[bytes, NDArray[Any]]:
        made, finished = self._work.craft(*_arguments(asked), pixels)
        return answered(made), finished

    def predict(self, asked: bytes, pixels: NDArray[Any]) -> bytes:
        return answered(self._work.predict(*_arguments(asked), pixels))

    def probe(self, asked: bytes, pixels: NDArray[np.uint8]) -> bytes:
        return answered(self._work.probe(*_arguments(asked), pixels))


class AskerActor(WorkerActor):
    """The actor of a remote service."""

    kind = Asker


def _arguments(asked: bytes) -> Sequence[Any]:
    arguments: Sequence[Any] = unpacked(asked)
    return arguments
