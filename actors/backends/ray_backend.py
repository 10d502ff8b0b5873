"""The Ray backend: a cluster's actors, or those of a Ray that lives and dies with this process."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import socket
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from actors.backends.interface import BackendGone, Call, Device, PixelsLost, Ref
from actors.backends.local_ray import LocalRay
from actors.backends.ray_daemons import Daemons
from actors.backends.ray_errors import told
from actors.backends.ray_preflight import must_be_ready
from actors.resources.placement import WORKER, Machine, ResourceRequest, Role
from actors.workers import code_digest
from actors.workers.ray_actors import AskerActor, WorkerActor, heard, packed
from actors.workers.worker_config import WorkerConfig
from study.errors import StudyError, first_line
from study.process import children

_OBJECT_STORE_BYTES = 2**30
_QUIET = {"task_events_report_interval_ms": 0, "enable_metrics_collection": False, "event_stats": False}
"""Nobody reads what a local Ray writes down about every call; it is a fifth of what calls cost."""
_ACCEPTED = "host:port of a cluster's head, auto, or local"
_ANSWER_SECONDS = 10.0
_NOTHING_SECONDS = 0.2
_PROBE_SECONDS = 30.0
_PIXELS_SECONDS = 60.0
_STOPPED_SECONDS = 0.5
_VERSIONS = re.compile(r"Ray: (\S+)\s+Python: (\S+)")


def _to_stderr(line: str) -> None:
    print(line, file=sys.stderr)


class RayBackend:
    """Actors run with no restarts and no retries of Ray's own: the scheduler replaces and repeats."""

    def __init__(
        self,
        address: str | None = None,
        hidden: Sequence[str] = (),
        say: Callable[[str], None] = _to_stderr,
        store: int = _OBJECT_STORE_BYTES,
    ) -> None:
        """Connect to `address`, else to RAY_ADDRESS (which a submitted Ray job has set), else start a local Ray, whose
        object store has `store` bytes.

        `hidden` are variables that a local Ray's processes must not have; `say` takes lines for people. Raises
        StudyError where there is no cluster at that address.
        """
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        chosen = address or os.environ.get("RAY_ADDRESS") or "local"
        _must_answer(chosen)
        if chosen == "local":
            must_be_ready()
        import ray

        # That it handles no signals where it is not started by the main thread needs no warning: the launch does.
        logging.getLogger("ray").setLevel(logging.ERROR)
        self._ray: Any = ray
        self._gpus: dict[str, float | None] = {}
        self._local: LocalRay | None = None
        self._say = say
        self._left_out: set[str] = set()
        self._parked: dict[str, dict[Device, list[Any]]] = defaultdict(dict)
        self.name = "local Ray" if chosen == "local" else f"Ray at {chosen}"
        options: dict[str, Any] = {"address": chosen, "log_to_driver": False, "logging_level": logging.ERROR}
        options["job_config"] = _job_config(ray)
        if chosen == "local":
            # Asked of this process alone: an address in the environment must not turn a local run into a remote one.
            options |= {
                "include_dashboard": False,
                "object_store_memory": store,
                "_system_config": _QUIET,
            }
            self._local = LocalRay(hidden)
        try:
            with contextlib.nullcontext() if self._local is None else self._local.starting():
                ray.init(**options)
        except Exception as error:
            self._end_local()
            raise _not_connected(chosen, error) from error
        self._connected(auto=chosen == "auto")
        self._worker: Any = ray.remote(max_restarts=0, max_task_retries=0)(WorkerActor)
        self._asker: Any = ray.remote(max_restarts=0, max_task_retries=0)(AskerActor)

    def _connected(self, *, auto: bool) -> None:
        """Note what calls depend on; and whose Ray it is, where that was not said before."""
        here = self._ray.get_runtime_context()
        self._here, self._gcs = here.get_node_id(), here.gcs_address
        near: dict[str, Any] = next((node for node in self._ray.nodes() if node["NodeID"] == self._here), {})
        socket_path = str(near.get("RayletSocketName", ""))
        self._daemons = Daemons(socket_path)
        self.asked = f"the GCS at {self._gcs}"
        if auto:
            owner = f", of user {self._daemons.owner}" if self._daemons.owner else ""
            self.name = f"Ray at {self._gcs} (found by auto: {Path(socket_path).parent.parent.name}{owner})"

    def pulse(self) -> None:
        """Returns once the raylet runs and the GCS has answered. Raises BackendGone where one of them is dead."""
        while stopped := self._daemons.stopped():
            self.asked = stopped
            time.sleep(_STOPPED_SECONDS)
        self.asked = f"the GCS at {self._gcs}"
        if not any(node["Alive"] for node in self._ray.nodes() if node["NodeID"] == self._here):
            raise BackendGone(
                "Ray is gone: its GCS holds this machine to be dead",
                todo="see whether it was cut off or overloaded, then launch again: what was published is kept",
            )

    def machines(self) -> list[Machine]:
        found = []
        for node in self._ray.nodes():
            if node["Alive"] and node["NodeID"] not in self._left_out:
                has = node["Resources"]
                gpus = float(has.get("GPU", 0)) - len(self._parked[node["NodeID"]])
                memory = self._gpu_memory(node["NodeID"]) if gpus >= 1 else None
                cpus, own = float(has.get("CPU", 0)), float(has.get("memory", 0)) or None
                found.append(Machine(cpus, gpus, own, memory, float(has.get("object_store_memory", 0)) or None))
        return found

    def _gpu_memory(self, node: str) -> float | None:
        """Bytes of a GPU of that node, asked there once; None where it does not say."""
        if node not in self._gpus:
            near = self._ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(node, soft=False)
            asked = self._ray.remote(num_cpus=0, max_retries=0)(gpu_memory).options(scheduling_strategy=near).remote()
            try:
                self._gpus[node] = self._ray.get(asked, timeout=_PROBE_SECONDS)
            except self._ray.exceptions.RayError:
                # A machine that comes and goes: what a worker may hold is known from others, or from nobody.
                self._gpus[node] = None
        return self._gpus[node]

    def start(self, role: Role, share: ResourceRequest, kit: WorkerConfig) -> Any:
        options: dict[str, Any] = {"num_cpus": share.cpus, "num_gpus": share.gpus}
        if share.memory and not share.gpus:
            options["memory"] = int(share.memory)
        if role != WORKER:
            # Beside the driver: answers are kept in the run folder, which other machines may not see.
            here = self._ray.get_runtime_context().get_node_id()
            near = self._ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(here, soft=False)
            options["scheduling_strategy"] = near
        elif self._left_out:
            options["label_selector"] = {"ray.io/node-id": f"!in({','.join(sorted(self._left_out))})"}
        made = self._worker if role == WORKER else self._asker
        return made.options(**options).remote(packed(kit.of(role)), share.device, code_digest.running().digest, node_id)

    def hello(self, actor: Any) -> Ref:
        ref: Ref = actor.hello.remote()
        return ref

    def call(self, actor: Any, method: str, arguments: Sequence[Any], pixels: Ref) -> Call:
        asked = packed(tuple(arguments))
        if method == "craft":
            value, made = actor.craft.options(num_returns=2).remote(asked, pixels)
            return Call(value, made)
        return Call(getattr(actor, method).remote(asked, pixels), None)

    def wait(self, refs: Sequence[Ref], seconds: float) -> list[Ref]:
        if not refs:
            time.sleep(min(seconds, _NOTHING_SECONDS))
            return []
        ready, rest = self._ray.wait(list(refs), num_returns=1, timeout=seconds, fetch_local=False)
        if ready and rest:
            more, _ = self._ray.wait(rest, num_returns=len(rest), timeout=0, fetch_local=False)
            ready = [*ready, *more]
        return list(ready)

    def value(self, ref: Ref) -> Any:
        errors = self._ray.exceptions
        try:
            said = heard(self._ray.get(ref))
        except errors.RayError as error:
            raise told(error, errors) from None
        return code_digest.answer_of(said) if code_digest.is_greeting(said) else said

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
        self._ray.kill(actor, no_restart=True)

    def set_aside(self, device: Device, actors: Sequence[Any]) -> None:
        if device.gpu:
            # Ray would give the GPU to the next actor: as long as these live, it does not.
            self._parked[device.node][device] = list(actors)
            return
        self._left_out.add(device.node)
        for actor in actors:
            self.stop(actor)

    def close(self) -> None:
        if self._local is not None:
            # The autoscaler of a local Ray has nothing to do, and takes a second to end in order.
            kill = getattr(getattr(self._ray._private.worker, "_global_node", None), "kill_monitor", None)
            if kill is not None:
                kill(check_alive=False)
        self._ray.shutdown()
        self._end_local()

    def _end_local(self) -> None:
        if self._local is not None:
            local, self._local = self._local, None
            if line := local.close():
                self._say(line)


def _job_config(ray: Any) -> Any:
    """What the driver's job is to be: workers' modules come from where their own Python finds them.

    Ray would put the driver's working folder and its script's folder before all others on every worker's search path,
    unless the job ships a working folder; there is no public way to say that it is not to.
    """

    class Job(ray.job_config.JobConfig):  # type: ignore[misc]
        def _runtime_env_has_working_dir(self) -> bool:
            return True

    return Job()


def _must_answer(address: str) -> None:
    """Refuse at once an address where nothing listens; Ray itself would try for minutes."""
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
        socket.create_connection((host.strip("[]"), int(port)), timeout=_ANSWER_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise StudyError(
            f"there is no Ray cluster at {address}: {error}",
            accepted=_ACCEPTED,
            todo="check --address and RAY_ADDRESS, or start the cluster with `ray start --head`",
        ) from None


def _not_connected(chosen: str, error: Exception) -> StudyError:
    """Why there is no way to the Ray at `chosen`: often Ray tells that only in the causes of what it raises."""
    if chosen == "local":
        return StudyError(f"a local Ray cannot be started: {first_line(error)}", accepted=_ACCEPTED)
    said = "\n".join(_chain(error))
    if "Version mismatch" in said and len(found := _VERSIONS.findall(said)) >= 2:
        (theirs, their_python), (ours, our_python) = found[:2]
        return StudyError(
            f"the cluster at {chosen} runs Ray {theirs} and Python {their_python}, and this process Ray {ours} "
            f"and Python {our_python}",
            accepted="the same Ray and the same Python, to the last digit, on every machine",
            todo="make the environment of every machine from constraints.txt, or launch with `ray job submit`",
        )
    if "authentication token" in said.lower():
        if os.environ.get("RAY_AUTH_MODE", "").lower() != "token":
            lacks = "RAY_AUTH_MODE=token is not set here"
        elif "no authentication token was found" in said:
            lacks = "there is none here"
        else:
            lacks = "the one here is another"
        return StudyError(
            f"the cluster at {chosen} asks for a token, and {lacks}",
            accepted="the token of the cluster's head, in ~/.ray/auth_token, RAY_AUTH_TOKEN or the file that "
            "RAY_AUTH_TOKEN_PATH names",
            todo="copy the head's ~/.ray/auth_token here, and set RAY_AUTH_MODE=token",
        )
    return StudyError(
        f"this process cannot join a Ray cluster at {chosen}: {first_line(error)}",
        accepted=_ACCEPTED,
        todo="check --address and RAY_ADDRESS, start the cluster with `ray start --head`, and launch from one of its "
        "machines: from elsewhere, use `ray job submit`",
    )


def _chain(error: BaseException | None) -> Iterator[str]:
    """What an exception says, and what those say that led to it."""
    while error is not None:
        yield str(error)
        error = error.__cause__ or error.__context__


def node_id() -> str:
    """What Ray calls the machine that this actor runs on."""
    import ray

    found: str = ray.get_runtime_context().get_node_id()
    return found


def gpu_memory() -> float | None:
    """Bytes of this machine's smallest GPU, as its driver says; None where it does not."""
    asked = ["nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
    said = (children.command_output(asked, 20) or "").split()
    found = [float(one) for one in said if one.isdecimal()]
    return min(found) * 2**20 if found else None
