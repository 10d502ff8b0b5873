"""One question to W&B's server, which the client never asks: is what it was sent there?"""

from __future__ import annotations

import json
import time
from typing import Any

_QUERY = """
query RunResumeStatus($project: String, $entity: String, $name: String!) {
  model(name: $project, entityName: $entity) { bucket(name: $name, missingOk: true) { historyTail } }
}
"""
_ATTEMPTS, _SECONDS = 3, 1.5


def has(run: Any, last: int) -> bool:
    """Whether the server says that the history of `run` (`wandb.Run`) goes up to the step `last`.

    An answer of nonsense counts as success where the client sends rows: so it is the server that is asked. Takes at
    most a few seconds.
    """
    for attempt in range(_ATTEMPTS):
        if attempt:
            time.sleep(0.5)
        if _last_step(run) >= last:
            return True
    return False


def _last_step(run: Any) -> int:
    import requests  # type: ignore[import-untyped]

    asked = {
        "query": _QUERY,
        "variables": {"project": run.project, "entity": run.entity, "name": run.id},
        "operationName": "RunResumeStatus",
    }
    try:
        answer = requests.post(
            f"{run.settings.base_url}/graphql", json=asked, auth=("api", run.settings.api_key or ""), timeout=_SECONDS
        )
        tail = json.loads(answer.json()["data"]["model"]["bucket"]["historyTail"])
        return int(json.loads(tail[-1])["_step"])
    except (requests.RequestException, ValueError, LookupError, TypeError):
        return -1
