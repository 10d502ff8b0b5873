"""The autoscaler of a Ray cluster: whether there is one, how many machines it is about to add, and requests to it.

Ray has two versions of its autoscaler. Version 1 writes its state as JSON under a key of the GCS (Ray's central
server). Version 2 reports its state to the GCS. No public function of Ray reads the state of both.
"""

from __future__ import annotations

import json
import logging
import math
from typing import Any

from actors.backends.interface import Scaling
from actors.resources.placement import ResourceRequest

_MIRRORED = "node_"
"""Prefix of the names of node types if Ray's autoscaler cannot add machines. It then reports each machine as a node
type of its own, whose name is this prefix and an id."""

_STATUS = "__autoscaling_status"
"""The key under which version 1 of the autoscaler writes its state."""

_log = logging.getLogger(__name__)


def scaling(gcs: str) -> Scaling | None:
    """Return the state of the autoscaler of the cluster whose GCS is at `gcs`.

    Returns None if there is no autoscaler, or if its state cannot be read.
    """
    from ray.autoscaler.v2.utils import is_autoscaler_v2

    try:
        return _reported(gcs) if is_autoscaler_v2() else _written()
    except Exception:  # noqa: BLE001 - two private formats of Ray
        # The cluster is then used as if it had no autoscaler.
        _log.debug("the state of Ray's autoscaler cannot be read", exc_info=True)
        return None


def request(workers: int, resources: ResourceRequest) -> None:
    """Ask for machines that can hold `workers` workers in all; 0 withdraws the request.

    A request replaces all earlier requests. `resources`: what each worker reserves.
    """
    from ray.autoscaler.sdk import request_resources

    bundle: dict[str, Any] = {"GPU": 1} if resources.gpus else {"CPU": math.ceil(resources.cpus)}
    count = math.ceil(workers / resources.together) if resources.gpus else workers
    request_resources(bundles=[bundle] * count)


def _written() -> Scaling | None:
    """Return the state that version 1 of the autoscaler has written; None if no autoscaler can add machines."""
    from ray.experimental import internal_kv

    text = internal_kv._internal_kv_get(_STATUS)
    return None if not text else of_status(json.loads(text))


def of_status(status: dict[str, Any]) -> Scaling | None:
    """Return the state in the JSON of version 1 of the autoscaler; None if this autoscaler cannot add machines."""
    report = status.get("autoscaler_report")
    if not report or all(name.startswith(_MIRRORED) for name in report["active_nodes"]):
        return None
    return Scaling(len(report["pending_nodes"]) + sum((report.get("pending_launches") or {}).values()))


def _reported(gcs: str) -> Scaling | None:
    """Return the state that version 2 of the autoscaler has reported; None if no autoscaler can add machines."""
    from ray.autoscaler.v2.sdk import get_cluster_status

    status = get_cluster_status(gcs)
    types = [node.ray_node_type_name for node in (*status.active_nodes, *status.idle_nodes)]
    silent = status.stats.autoscaler_version in (None, "0")
    if silent or not types or all(not name or name.startswith(_MIRRORED) for name in types):
        return None
    return Scaling(len(status.pending_nodes) + sum(one.count for one in status.pending_launches))
