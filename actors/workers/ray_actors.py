"""The Ray actors that wrap workers.

All arguments of a call travel as one pickle, and so does the result. Python's own pickler makes these pickles. Ray's
pickler takes twice as long for small values, and pickles every argument separately.
"""

from __future__ import annotations

import contextlib
import copyreg
import functools
import io
import os
import pickle
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from actors.backends.interface import ActorInfo, CallFailed, Device, DeviceLost
from actors.workers import code_digest
from actors.workers.service_worker import ServiceWorker
from actors.workers.worker import Worker
from study.attacks.recipe import Attack
from study.errors import StudyError
from study.events import activity, repairs
from study.models.device_errors import device_failed, origin
from study.reproducibility import hardware


def pack(value: Any) -> bytes:
    """Return a message as a pickle. A message never contains pixels: Ray's object store passes them to the actor.

    The recipe of an attack is pickled only once for all calls, because this takes as long as pickling the rest of a
    message.
    """
    stream = io.BytesIO()
    pickler = pickle.Pickler(stream, protocol=5)
    pickler.dispatch_table = _REDUCED
    pickler.dump(value)
    return stream.getvalue()


def _recipe_of(attack: Attack) -> tuple[Callable[[bytes], Attack], tuple[bytes]]:
    """Return what the pickler stores in place of a recipe: the function `_recipe` and its argument (a pickle).

    A recipe is pickled only once for all calls, and each actor unpickles the bytes only once.
    """
    known = _PICKLED.get(id(attack))
    if known is None or known[0] is not attack:
        if len(_PICKLED) >= _MOST_RECIPES:
            _PICKLED.clear()
        known = _PICKLED[id(attack)] = (attack, pickle.dumps(attack, protocol=5))
    return _recipe, (known[1],)


@functools.lru_cache(maxsize=64)
def _recipe(pickled: bytes) -> Attack:
    """Return the recipe in a pickle. Equal bytes give the same object, so its components are made only once."""
    attack: Attack = pickle.loads(pickled)
    return attack


_TELL_SECONDS = 1.0

_MOST_RECIPES = 10_000
_PICKLED: dict[int, tuple[Attack, bytes]] = {}
"""Each recipe and its pickle, by the `id` of the recipe object. The entry keeps the object alive, so that no other
object gets this `id`."""

_REDUCED: dict[type, Callable[[Any], Any]] = {**copyreg.dispatch_table, Attack: _recipe_of}


def unpack(message: bytes) -> Any:
    """Return the content of a message. Messages pass only between the driver and the actors that it has started."""
    return pickle.loads(message)


class WorkerReply(NamedTuple):
    """The answer of an actor: the value of a call, and the repairs that the worker has made since its last answer."""

    value: Any
    repairs: list[repairs.Repair]


def pack_answer(value: Any) -> bytes:
    """Return the message with which an actor answers a call. It contains `value` and the repairs of this process."""
    return pack(WorkerReply(value, repairs.taken()))


def unpack_answer(message: bytes) -> Any:
    """Return the value in an actor's answer. This process then reports the repairs in the answer."""
    reply: WorkerReply = unpack(message)
    repairs.hear(reply.repairs)
    return reply.value


class WorkerActor:
    """The Ray actor that wraps a worker. Its methods raise only StudyError, CallFailed and DeviceLost.

    If the worker cannot be created, `hello` raises the error. Ray would report an error in `__init__` as the death of
    the actor. After a failure of its device, the actor refuses every further call.
    """

    kind: ClassVar[type[Any]] = Worker

    def __init__(
        self, config: bytes, device: str, digest: str, node: Callable[[], str], tell: Callable[[str], None]
    ) -> None:
        """Create the worker.

        `config`: a packed WorkerConfig. `digest`: the digest of the driver's code. If the code here has another digest,
        the configuration is not read, and no worker is created. `node` returns Ray's id of the machine on which it is
        called. `tell` publishes the progress of this actor's call. A thread calls `tell`, so that no call waits for it.
        """
        self._device = Device(node(), socket.gethostname(), _device_name(device), device != "cpu")
        self._worker: Any = None
        self._broken: CallFailed | StudyError | None = None
        self._lost: DeviceLost | None = None
        if device == "cpu":
            # Otherwise torch would take memory on every GPU that it sees.
            os.environ["CUDA_VISIBLE_DEVICES"] = ""
        if code_digest.running().digest != digest:
            return
        try:
            self._worker = self.kind(unpack(config), device)
        except StudyError as error:
            self._broken = error
        except Exception as error:  # noqa: BLE001 - raised by `hello`, as text
            self._broken = CallFailed.of(error, self._device)
        threading.Thread(target=_keep_telling, args=(tell,), name="activity", daemon=True).start()

    def hello(self) -> dict[str, Any]:
        if self._broken is not None:
            raise self._broken
        try:
            if self._worker is None:
                return code_digest.greeting(None)
            memory = hardware.gpu_memory("cuda:0") if self._device.gpu else None
            return code_digest.greeting(ActorInfo(self._device, self._worker.hello(), memory))
        except StudyError:
            raise
        except Exception as error:  # noqa: BLE001 - raised again, as text
            raise CallFailed.of(error, self._device) from None

    def craft(self, message: bytes, pixels: NDArray[np.uint8]) -> tuple[bytes, NDArray[Any]]:
        with self._translated_errors():
            result, crafted = self._worker.craft(*_arguments(message), pixels)
            return pack_answer(result), crafted

    def predict(self, message: bytes, pixels: NDArray[Any]) -> bytes:
        with self._translated_errors():
            return pack_answer(self._worker.predict(*_arguments(message), pixels))

    def probe(self, message: bytes, pixels: NDArray[np.uint8]) -> bytes:
        with self._translated_errors():
            return pack_answer(self._worker.probe(*_arguments(message), pixels))

    def bundle(self, message: bytes, *pixels: NDArray[Any]) -> bytes | tuple[Any, ...]:
        """Execute several calls in order, and return their answers in one message. The crafted images follow it.

        `message`: a packed list of pairs of a method and the arguments of the call. `pixels`: the images of each call.
        The answer of a call that fails is its error, and its crafted images are None.
        """
        answers: list[Any] = []
        crafted: list[Any] = []
        for (method, arguments), given in zip(unpack(message), pixels, strict=True):
            answer, images = None, None
            try:
                with self._translated_errors():
                    answer = getattr(self._worker, method)(*arguments, given)
            except (StudyError, CallFailed, DeviceLost) as error:
                answers.append(error)
            else:
                answer, images = answer if method == "craft" else (answer, None)
                answers.append(answer)
            if method == "craft":
                crafted.append(images)
        reply = pack_answer(answers)
        return (reply, *crafted) if crafted else reply

    @contextlib.contextmanager
    def _translated_errors(self) -> Iterator[None]:
        """Return a context that turns every error except StudyError into CallFailed or DeviceLost.

        Many other errors cannot be pickled, so Ray could not send them to the driver.
        """
        if self._lost is not None:
            raise self._lost
        try:
            yield
        except Exception as error:
            described = CallFailed.of(error, self._device)
            if device_failed(error):
                what = CallFailed.of(origin(error)).what
                self._lost = DeviceLost(what, described.traceback, self._device)
                raise self._lost from None
            if isinstance(error, StudyError):
                raise
            raise described from None


class ServiceActor(WorkerActor):
    """The Ray actor that wraps the worker of a remote service."""

    kind = ServiceWorker


def _keep_telling(tell: Callable[[str], None]) -> None:
    """Pass the progress of this process's call to `tell`, every second if it has changed. Never returns."""
    told = ""
    while True:
        time.sleep(_TELL_SECONDS)
        now = activity.here.text
        if now != told:
            # If this fails, displays do not show the progress. The work goes on.
            with contextlib.suppress(Exception):
                tell(now)
            told = now


def _arguments(message: bytes) -> Sequence[Any]:
    arguments: Sequence[Any] = unpack(message)
    return arguments


def _device_name(device: str) -> str:
    """Return the name of the device for messages: `the processor`, or `GPU` and its number.

    The number comes from CUDA_VISIBLE_DEVICES, because Ray shows each actor only its own GPUs.
    """
    return "the processor" if device == "cpu" else f"GPU {os.environ.get('CUDA_VISIBLE_DEVICES', '0')}"
