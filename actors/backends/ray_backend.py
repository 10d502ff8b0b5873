"""The Ray backend runs actors on a Ray cluster, or on a local Ray that starts and ends with this process."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import re
import socket
import sys
import time
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from actors.backends import ray_autoscaler
from actors.backends.interface import (
    ActorLost,
    BackendGone,
    BundleFailed,
    Call,
    CallRequest,
    Device,
    PixelsLost,
    Ref,
    Scaling,
)
from actors.backends.local_ray import LocalRay
from actors.backends.ray_daemons import Daemons
from actors.backends.ray_errors import translate
from actors.backends.ray_preflight import check_machine
from actors.resources.placement import WORKER, Machine, ResourceRequest, Role
from actors.workers import code_digest
from actors.workers.ray_actors import ServiceActor, WorkerActor, pack, unpack_answer
from actors.workers.worker_config import WorkerConfig
from study.errors import StudyError, first_line
from study.process import children

_OBJECT_STORE_BYTES = 2**30
_NODE_ID = "ray.io/node-id"
_MIG = re.compile(r"\bMIG \S*\b(\d+)gb\b")
_QUIET = {"task_events_report_interval_ms": 0, "enable_metrics_collection": False, "event_stats": False}
"""Settings with which a local Ray does not record every call. Recording takes a fifth of the time of a call."""
_ACCEPTED = "host:port of a cluster's head, auto, or local"
_CONNECT_SECONDS = 10.0
_IDLE_SECONDS = 0.2
_GPU_MEMORY_SECONDS = 30.0
_SMI_SECONDS = 10.0
_PIXELS_SECONDS = 60.0
_STOPPED_POLL_SECONDS = 0.5
_ACTIVITY = "study-activity-"
_WATCHED_SECONDS = 5.0
_VERSIONS = re.compile(r"Ray: (\S+)\s+Python: (\S+)")


def _to_stderr(line: str) -> None:
    print(line, file=sys.stderr)


class RayBackend:
    """Runs actors on Ray, without Ray's own restarts and retries: the scheduler replaces actors and repeats calls."""

    def __init__(
        self,
        address: str | None = None,
        hidden: Sequence[str] = (),
        say: Callable[[str], None] = _to_stderr,
        store: Callable[[int], int] = lambda gpus: _OBJECT_STORE_BYTES,
        errors: int | None = None,
    ) -> None:
        """Connect to a Ray cluster, or start a local Ray.

        The address of the cluster is `address`, or else the value of the environment variable RAY_ADDRESS. Ray sets
        this variable in submitted jobs. If both are empty, a local Ray is started. `hidden`: names of environment
        variables that a local Ray's processes must not get. `say` prints a line for the user. `store` takes the number
        of GPUs, and returns the bytes of a local Ray's object store. `errors`: the file descriptor for a message about
        a death of Ray that ends this process too; None: there is no such message. Raises StudyError if the address
        is not valid, if the cluster there cannot be joined, or if a local Ray cannot start.
        """
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        chosen = address or os.environ.get("RAY_ADDRESS") or "local"
        _check_address(chosen)
        if chosen == "local":
            check_machine()
        import ray

        # Outside the main thread, Ray warns that it cannot handle signals. The warning is hidden, because the launch
        # handles them.
        logging.getLogger("ray").setLevel(logging.ERROR)
        self._ray: Any = ray
        self._gpus: dict[str, float | None] = {}
        self._probes: dict[str, tuple[Ref, float]] = {}
        self._asked = 0
        self._local: LocalRay | None = None
        self._say = say
        self._left_out: set[str] = set()
        self._parked: dict[str, dict[Device, list[Any]]] = defaultdict(dict)
        self._hellos: set[Ref] = set()
        self._bundles: dict[Ref, dict[int, Any]] = {}
        self._activity_prefix = f"{_ACTIVITY}{uuid.uuid4().hex}-"
        self._activities: dict[int, _Told] = {}
        self.name = "local Ray" if chosen == "local" else f"Ray at {chosen}"
        self.fixed = chosen == "local"
        options: dict[str, Any] = {"address": chosen, "log_to_driver": False, "logging_level": logging.ERROR}
        options["job_config"] = _job_config(ray)
        if chosen == "local":
            options |= {
                "include_dashboard": False,
                "object_store_memory": store(_gpus_here(ray)),
                "_system_config": _QUIET,
            }
            self._local = LocalRay(hidden)
        try:
            with contextlib.nullcontext() if self._local is None else self._local.starting():
                ray.init(**options)
        except Exception as error:
            self._end_local()
            raise _not_connected(chosen, error) from error
        self._note_daemons(errors, auto=chosen == "auto")
        ray.method(num_returns=2)(WorkerActor.craft)
        self._worker: Any = ray.remote(max_restarts=0, max_task_retries=0)(WorkerActor)
        self._service: Any = ray.remote(max_restarts=0, max_task_retries=0)(ServiceActor)

    def _note_daemons(self, errors: int | None, *, auto: bool) -> None:
        """Remember Ray's raylet and GCS, the processes on which calls depend.

        `errors`: as in `__init__`. `auto`: whether Ray itself has found the cluster. The name of this backend then says
        which cluster it is.
        """
        here = self._ray.get_runtime_context()
        self._here, self._gcs = here.get_node_id(), here.gcs_address
        near: dict[str, Any] = next((node for node in self._ray.nodes() if node["NodeID"] == self._here), {})
        socket_path = str(near.get("RayletSocketName", ""))
        self._daemons = Daemons(socket_path, errors)
        self.awaited = f"the GCS at {self._gcs}"
        if auto:
            owner = f", of user {self._daemons.owner}" if self._daemons.owner else ""
            self.name = f"Ray at {self._gcs} (found by auto: {Path(socket_path).parent.parent.name}{owner})"

    def check(self) -> None:
        """Raise BackendGone if the raylet or the GCS has died.

        If one of them has died, the next call of Ray would end the driver without a message.
        """
        self._daemons.check()

    def heartbeat(self) -> None:
        """Wait until the raylet runs and the GCS has answered. Raises BackendGone if one of them is dead."""
        while stopped := self._daemons.stopped():
            self.awaited = stopped
            time.sleep(_STOPPED_POLL_SECONDS)
        self.awaited = f"the GCS at {self._gcs}"
        if not any(node["Alive"] for node in self._ray.nodes() if node["NodeID"] == self._here):
            raise BackendGone(
                "Ray is gone: its GCS has declared this machine dead",
                todo="check whether this machine was cut off from the network or overloaded, then launch again: "
                "published results are kept",
            )
        self._read_activities()

    def _read_activities(self) -> None:
        """Read the progress of calls, for those actors about which a display has asked in the last seconds."""
        for one in list(self._activities.values()):
            if time.monotonic() - one.asked < _WATCHED_SECONDS:
                found = self._ray.experimental.internal_kv._internal_kv_get(one.key)
                one.text = (found or b"").decode()

    def machines(self) -> list[Machine]:
        found = []
        nodes = [node for node in self._ray.nodes() if node["Alive"] and node["NodeID"] not in self._left_out]
        self._measure_gpus([node["NodeID"] for node in nodes if node["Resources"].get("GPU", 0) >= 1])
        for node in nodes:
            name, size = node["NodeID"], node["Resources"]
            if name in self._probes:
                # A machine is listed only when the measurement of its GPUs has ended.
                continue
            gpus = float(size.get("GPU", 0)) - len(self._parked[name])
            cpus, own = float(size.get("CPU", 0)), float(size.get("memory", 0)) or None
            memory, store = self._gpus.get(name), float(size.get("object_store_memory", 0)) or None
            found.append(Machine(cpus, gpus, own, memory if gpus >= 1 else None, store, node["NodeManagerHostname"]))
        return found

    def _measure_gpus(self, nodes: Sequence[str]) -> None:
        """Measure the GPU memory of the new machines among `nodes` (ids), on all new machines at the same time.

        As long as no machine has been measured, this method waits for the answers. Later it does not wait.
        """
        wait = 0.0 if self._gpus else _GPU_MEMORY_SECONDS
        for node in nodes:
            if node not in self._gpus and node not in self._probes:
                near = self._ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(node, soft=False)
                probe = self._ray.remote(num_cpus=0, max_retries=0)(gpu_memory).options(scheduling_strategy=near)
                self._probes[node] = probe.remote(), time.monotonic() + _GPU_MEMORY_SECONDS
        if not self._probes:
            return
        refs = [ref for ref, _ in self._probes.values()]
        ready = set(self._ray.wait(refs, num_returns=len(refs), timeout=wait)[0])
        for node, (ref, deadline) in list(self._probes.items()):
            if ref in ready or time.monotonic() >= deadline:
                del self._probes[node]
                try:
                    self._gpus[node] = self._ray.get(ref, timeout=0) if ref in ready else None
                except self._ray.exceptions.RayError:
                    # The machine may have left again, or nvidia-smi hangs there.
                    self._gpus[node] = None

    def scaling(self) -> Scaling | None:
        return None if self.fixed else ray_autoscaler.scaling(self._gcs)

    def request(self, workers: int, resources: ResourceRequest) -> None:
        ray_autoscaler.request(workers, resources)
        self._asked = workers

    def start(self, role: Role, resources: ResourceRequest, config: WorkerConfig) -> Any:
        options: dict[str, Any] = {"num_cpus": resources.cpus, "num_gpus": resources.gpus}
        if resources.memory and not resources.gpus:
            options["memory"] = int(resources.memory)
        if role != WORKER:
            # A service's actor runs on the driver's machine, because it writes answers into the run folder. Other
            # machines may not see this folder.
            here = self._ray.get_runtime_context().get_node_id()
            near = self._ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(here, soft=False)
            options["scheduling_strategy"] = near
        elif out := self._left_out | self._too_small(resources):
            options["label_selector"] = {_NODE_ID: f"!in({','.join(sorted(out))})"}
        kind = self._worker if role == WORKER else self._service
        digest = code_digest.running().digest
        told = _Told(f"{self._activity_prefix}{uuid.uuid4().hex}")
        tell = functools.partial(put_activity, told.key)
        actor = kind.options(**options).remote(pack(config.of(role)), resources.device, digest, node_id, tell)
        told.actor = actor
        self._activities[id(actor)] = told
        return actor

    def _too_small(self, resources: ResourceRequest) -> set[str]:
        """Return the ids of the machines whose GPUs have too little memory for an actor with these resources."""
        if not resources.gpus:
            return set()
        return {node for node, memory in self._gpus.items() if not resources.fits_on_gpu(memory)}

    def hello(self, actor: Any) -> Ref:
        ref: Ref = actor.hello.remote()
        self._hellos.add(ref)
        return ref

    def call(self, actor: Any, method: str, arguments: Sequence[Any], pixels: Ref) -> Call:
        message = pack(tuple(arguments))
        started = getattr(actor, method).remote(message, pixels)
        return Call(*started) if method == "craft" else Call(started, None)

    def bundle(self, actor: Any, requests: Sequence[CallRequest]) -> list[Call]:
        message = pack([(request.method, request.arguments) for request in requests])
        crafts = sum(request.method == "craft" for request in requests)
        pixels = [request.pixels for request in requests]
        started = actor.bundle.options(num_returns=1 + crafts).remote(message, *pixels)
        answers, *crafted = started if crafts else [started]
        images = iter(crafted)
        return [
            Call(_Part(answers, number), next(images) if request.method == "craft" else None)
            for number, request in enumerate(requests)
        ]

    def activity(self, actor: Any) -> str:
        told = self._activities.get(id(actor))
        if told is None:
            return ""
        told.asked = time.monotonic()
        return told.text

    def wait(self, refs: Sequence[Ref], seconds: float) -> list[Ref]:
        if not refs:
            time.sleep(min(seconds, _IDLE_SECONDS))
            return []
        parts: dict[Ref, list[Ref]] = {}
        for ref in refs:
            parts.setdefault(ref.bundle if isinstance(ref, _Part) else ref, []).append(ref)
        # If the driver is busy, some values are ready already. Then no second call is needed.
        ready, rest = self._ray.wait(list(parts), num_returns=len(parts), timeout=0, fetch_local=False)
        if not ready:
            ready, _ = self._ray.wait(rest, num_returns=1, timeout=seconds, fetch_local=False)
        return [part for ref in ready for part in parts[ref]]

    def value(self, ref: Ref) -> Any:
        if isinstance(ref, _Part):
            return self._value_of_part(ref)
        is_hello = ref in self._hellos
        self._hellos.discard(ref)
        message = self._message(ref)
        return code_digest.answer_of(message) if is_hello else unpack_answer(message)

    def _value_of_part(self, part: _Part) -> Any:
        """Return the answer of one call of a bundle. The first part that is read fetches the answers of all parts."""
        left = self._bundles.get(part.bundle)
        if left is None:
            try:
                answers = unpack_answer(self._message(part.bundle))
            except ActorLost:
                raise
            except Exception as error:
                # Such as lost pixels of one call. Ray does not say of which one.
                raise BundleFailed(first_line(error)) from error
            left = self._bundles[part.bundle] = dict(enumerate(answers))
        answer = left.pop(part.number)
        if not left:
            del self._bundles[part.bundle]
        if isinstance(answer, Exception):
            raise answer
        return answer

    def _message(self, ref: Ref) -> Any:
        errors = self._ray.exceptions
        try:
            return self._ray.get(ref)
        except errors.RayError as error:
            raise translate(error, errors) from None

    def pixels(self, ref: Ref) -> NDArray[np.uint8]:
        errors = self._ray.exceptions
        try:
            found: NDArray[np.uint8] = self._ray.get(ref, timeout=_PIXELS_SECONDS)
        except errors.RayError as error:
            raise PixelsLost(first_line(error)) from error
        return found

    def put(self, pixels: NDArray[np.uint8]) -> Ref:
        ref: Ref = self._ray.put(pixels)
        return ref

    def stop(self, actor: Any) -> None:
        self._activities.pop(id(actor), None)
        self._ray.kill(actor, no_restart=True)

    def set_aside(self, device: Device, actors: Sequence[Any]) -> None:
        if device.gpu:
            # These actors stay alive to keep the GPU reserved. Otherwise Ray would give the GPU to the next actor.
            self._parked[device.node].setdefault(device, []).extend(actors)
            return
        self._left_out.add(device.node)
        for actor in actors:
            self.stop(actor)

    def close(self) -> None:
        self._daemons.close()
        if not self.fixed:
            # The cluster outlives this process, and would keep the progress reports of its actors.
            with contextlib.suppress(Exception):
                self._ray.experimental.internal_kv._internal_kv_del(self._activity_prefix, del_by_prefix=True)
        if self._asked:
            # A request to the autoscaler outlives the process that made it, so withdraw it.
            with contextlib.suppress(Exception):
                self.request(0, ResourceRequest(0, 0))
        if self._local is not None:
            # The autoscaler of a local Ray takes a second to end by itself, so kill it. It has nothing to do.
            kill = getattr(getattr(self._ray._private.worker, "_global_node", None), "kill_monitor", None)
            if kill is not None:
                kill(check_alive=False)
        self._ray.shutdown()
        self._end_local(orderly=True)

    def _end_local(self, *, orderly: bool = False) -> None:
        if self._local is not None:
            local, self._local = self._local, None
            if line := local.close(orderly=orderly):
                self._say(line)


class _Part(NamedTuple):
    """The reference to the answer of one call of a bundle.

    Attributes:
        bundle: Ray's reference to the answers of all calls of the bundle.
        number: The number of the call in the bundle.
    """

    bundle: Any
    number: int


def _job_config(ray: Any) -> Any:
    """Return a job configuration with which workers import modules only from their own Python's search path.

    By default, Ray puts the driver's working folder and the folder of its script first on every worker's search path.
    It does not do so for a job that ships a working folder. No public option of Ray prevents this. So this
    configuration claims that the job ships a working folder.
    """

    class Job(ray.job_config.JobConfig):  # type: ignore[misc]
        def _runtime_env_has_working_dir(self) -> bool:
            return True

    return Job()


def _check_address(address: str) -> None:
    """Raise StudyError if `address` is not valid, or if nothing listens there. Ray itself would try for minutes."""
    if address in ("local", "auto"):
        return
    host, colon, port = address.rpartition(":")
    if "://" in address or not colon or not host or not port.isdecimal():
        raise StudyError(
            f"'{address}' is not the address of a Ray cluster",
            accepted=_ACCEPTED,
            todo="give the address that `ray start --head` printed; from outside a cluster, use `ray job submit`",
        )
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise StudyError(
            f"there is no Ray cluster at {address}: {error}",
            accepted=_ACCEPTED,
            todo="check --address and RAY_ADDRESS, or start the cluster with `ray start --head`",
        ) from None


def _not_connected(chosen: str, error: Exception) -> StudyError:
    """Return the error that says why Ray at the address `chosen` cannot be used.

    `error` is Ray's error. Its causes are read too, because often only they contain the reason.
    """
    if chosen == "local":
        return StudyError(f"a local Ray cannot be started: {first_line(error)}", accepted=_ACCEPTED)
    text = "\n".join(_messages(error))
    if "Version mismatch" in text and len(found := _VERSIONS.findall(text)) >= 2:
        (theirs, their_python), (ours, our_python) = found[:2]
        return StudyError(
            f"the cluster at {chosen} runs Ray {theirs} and Python {their_python}, but this process runs Ray {ours} "
            f"and Python {our_python}",
            accepted="exactly the same versions of Ray and Python on every machine",
            todo="install from constraints.txt on every machine, or launch with `ray job submit`",
        )
    if "authentication token" in text.lower():
        if os.environ.get("RAY_AUTH_MODE", "").lower() != "token":
            problem = "RAY_AUTH_MODE=token is not set here"
        elif "no authentication token was found" in text:
            problem = "there is none here"
        else:
            problem = "the token here is a different one"
        return StudyError(
            f"the cluster at {chosen} requires a token, and {problem}",
            accepted="the token of the cluster's head, in ~/.ray/auth_token, in RAY_AUTH_TOKEN, or in the file that "
            "RAY_AUTH_TOKEN_PATH names",
            todo="copy the head's ~/.ray/auth_token to this machine, set RAY_AUTH_MODE=token, and unset RAY_AUTH_TOKEN "
            "and RAY_AUTH_TOKEN_PATH, which come before this file",
        )
    return StudyError(
        f"this process cannot join a Ray cluster at {chosen}: {first_line(error)}",
        accepted=_ACCEPTED,
        todo="check --address and RAY_ADDRESS, start the cluster with `ray start --head`, and launch from one of its "
        "machines; from other machines, use `ray job submit`",
    )


def _messages(error: BaseException | None) -> Iterator[str]:
    """Yield the messages of an exception and of all its causes."""
    while error is not None:
        yield str(error)
        error = error.__cause__ or error.__context__


class _Told:
    """The last report of an actor on the progress of its call.

    `key`: the key of the report in the key-value store of Ray's GCS. `text`: the report. `asked`: the time when a
    display last asked for the report.
    """

    def __init__(self, key: str) -> None:
        self.key = key
        self.text = ""
        self.asked = -_WATCHED_SECONDS
        self.actor: Any = None
        """The handle of the actor. Reports are found by the `id` of this handle. As long as it is kept here, no other
        object gets this `id`."""


def put_activity(key: str, text: str) -> None:
    """Write the progress of this actor's call into the key-value store of Ray's GCS, where the driver reads it."""
    import ray

    ray.experimental.internal_kv._internal_kv_put(key, text)


def node_id() -> str:
    """Return Ray's id of the machine on which this actor runs."""
    import ray

    found: str = ray.get_runtime_context().get_node_id()
    return found


def gpu_memory() -> float | None:
    """Return the bytes of this machine's smallest GPU; None if nvidia-smi reports no size.

    If a GPU is divided by MIG, the result is the size of the smallest MIG part.
    """
    command = ["nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
    listed = children.command_output(["nvidia-smi", "--list-gpus"], _SMI_SECONDS) or ""
    return smallest(listed, children.command_output(command, _SMI_SECONDS) or "")


def smallest(listed: str, totals: str) -> float | None:
    """Return the bytes of the smallest GPU; None if nvidia-smi reports no size.

    If a GPU is divided by MIG, the result is the size of the smallest MIG part. `listed`: the output of
    `nvidia-smi --list-gpus`. `totals`: the MiB of each whole GPU, separated by white space.
    """
    # A line such as `MIG 3g.40gb Device 0: …` names a part of a GPU. If a GPU has parts, no process can use it as a
    # whole.
    parts = [float(one) * 1e9 for one in _MIG.findall(listed)]
    whole = [] if parts else [float(one) * 2**20 for one in totals.split() if one.isdecimal()]
    return min(parts or whole, default=None)


def _gpus_here(ray: Any) -> int:
    """Return the number of GPUs that a local Ray will find on this machine."""
    nvidia = ray._private.accelerators.NvidiaGPUAcceleratorManager
    visible = nvidia.get_current_process_visible_accelerator_ids()
    count: int = nvidia.get_current_node_num_accelerators()
    return count if visible is None else min(count, len(visible))
