"""The Ray backend: a cluster's actors, or those of a Ray that lives and dies with this process."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from actors.asker import Asker
from actors.backend import ActorLost, Call, PixelsLost, Ref
from actors.kit import Kit
from actors.policy import WORKER, Role, Share
from actors.reaper import Reaper
from actors.worker import Worker
from study.errors import StudyError

_OBJECT_STORE_BYTES = 2**30
_ACCEPTED = "host:port of a cluster's head, auto, or local"
_ANSWER_SECONDS = 10.0


class Cluster:
    """Actors run with no restarts and no retries of Ray's own: the scheduler replaces and repeats."""

    def __init__(self, address: str | None = None) -> None:
        """Connect to `address`, else to RAY_ADDRESS (which a submitted Ray job has set), else start a local Ray.

        Raises StudyError where there is no cluster at that address.
        """
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        chosen = address or os.environ.get("RAY_ADDRESS") or "local"
        _must_answer(chosen)
        import ray

        self._ray: Any = ray
        self._reaper: Reaper | None = None
        self.name = "local Ray" if chosen == "local" else f"Ray at {chosen}"
        options: dict[str, Any] = {"address": chosen, "log_to_driver": False, "logging_level": logging.ERROR}
        if chosen == "local":
            # Asked of this process alone: an address in the environment must not turn a local run into a remote one.
            options |= {"include_dashboard": False, "object_store_memory": _OBJECT_STORE_BYTES}
            self._reaper = Reaper()
        try:
            ray.init(**options)
        except Exception as error:
            self._end_reaper()
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise StudyError(
                f"there is no Ray cluster at {chosen}: {reason}"
                if chosen != "local"
                else f"a local Ray cannot be started: {reason}",
                accepted=_ACCEPTED,
                todo="check --address and RAY_ADDRESS, or start the cluster with `ray start --head`; where the cluster "
                "asks for a token, set RAY_AUTH_MODE=token",
            ) from error
        self._worker: Any = ray.remote(max_restarts=0, max_task_retries=0)(Worker)
        self._asker: Any = ray.remote(max_restarts=0, max_task_retries=0)(Asker)

    def capacity(self) -> tuple[float, float]:
        resources: dict[str, float] = self._ray.cluster_resources()
        return float(resources.get("CPU", 0)), float(resources.get("GPU", 0))

    def start(self, role: Role, share: Share, kit: Kit) -> Any:
        options: dict[str, Any] = {"num_cpus": share.cpus, "num_gpus": share.gpus}
        if role != WORKER:
            # Beside the driver: answers are kept in the run folder, which other machines may not see.
            here = self._ray.get_runtime_context().get_node_id()
            near = self._ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(here, soft=False)
            options["scheduling_strategy"] = near
        made = self._worker if role == WORKER else self._asker
        return made.options(**options).remote(kit.of(role), share.device)

    def hello(self, actor: Any) -> Ref:
        ref: Ref = actor.hello.remote()
        return ref

    def call(self, actor: Any, method: str, arguments: Sequence[Any], pixels: Ref) -> Call:
        if method == "craft":
            value, made = actor.craft.options(num_returns=2).remote(*arguments, pixels)
            return Call(value, made)
        return Call(actor.predict.remote(*arguments, pixels), None)

    def wait(self, refs: Sequence[Ref], seconds: float) -> list[Ref]:
        if not refs:
            return []
        ready, rest = self._ray.wait(list(refs), num_returns=1, timeout=seconds, fetch_local=False)
        if ready and rest:
            more, _ = self._ray.wait(rest, num_returns=len(rest), timeout=0, fetch_local=False)
            ready = [*ready, *more]
        return list(ready)

    def value(self, ref: Ref) -> Any:
        errors = self._ray.exceptions
        try:
            return self._ray.get(ref)
        except errors.RayActorError as error:
            raise ActorLost(str(error)) from error
        except (errors.ObjectLostError, errors.ObjectFetchTimedOutError) as error:
            raise PixelsLost(str(error)) from error
        except errors.RayTaskError as error:
            cause = error.cause
            if isinstance(cause, StudyError):
                raise cause from None
            if isinstance(cause, errors.ObjectLostError | errors.ObjectFetchTimedOutError):
                raise PixelsLost(str(cause)) from error
            raise

    def put(self, pixels: NDArray[np.uint8]) -> Ref:
        ref: Ref = self._ray.put(pixels)
        return ref

    def stop(self, actor: Any) -> None:
        self._ray.kill(actor, no_restart=True)

    def close(self) -> None:
        self._ray.shutdown()
        self._end_reaper()

    def _end_reaper(self) -> None:
        if self._reaper is not None:
            self._reaper.close()
            self._reaper = None


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
