"""How long calls take, as far as it was seen: with which models, of which kind, and what loading a model adds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from actors.scheduling import policy
from actors.scheduling.backlog import Method, Task
from actors.scheduling.messages import Timed


class Pace:
    """Seconds for a unit of cost, and seconds of loads."""

    def __init__(self) -> None:
        self._of: dict[object, float] = {}
        self._usual: dict[str, float] = {}
        self._loads: dict[str, float] = {}

    @property
    def loads(self) -> Mapping[str, float]:
        """Seconds that loading a model took, by name."""
        return self._loads

    def learn(self, task: Task, value: Any, seconds: float) -> None:
        """A call took `seconds`, where its worker does not say more."""
        if isinstance(value, Timed):
            seconds = value.seconds - sum(value.loads.values())
            for name, took in value.loads.items():
                _mix(self._loads, name, took)
        pace = seconds / max(task.cost, 1e-9)
        _mix(self._of, task.key, pace)
        _mix(self._usual, task.method, pace)

    def timed(self, group: policy.Group) -> policy.Group:
        """A group with its cost in seconds, as others like it took where none of its own was done yet."""
        pace = self._of.get(group.key) or self._usual.get(group.key[1], self._guess(group.key[1]))  # type: ignore[index]
        if not pace:
            return group
        cost, coming = group.cost * pace, group.coming * pace
        return policy.Group(group.key, group.role, group.models, group.urgent, group.count, cost, coming)

    def late(self, task: Task, seconds: float, patience: float) -> bool:
        """Whether a call that runs for `seconds` takes longer than `patience`, and far longer than calls like it."""
        usual = self._of.get(task.key)
        if usual is None:
            return False
        loading = sum(self._loads.get(name, 0.0) for name in task.models)
        return seconds >= max(patience, 3 * (usual * task.cost + loading))

    def _guess(self, method: Method) -> float:
        """A gradient takes about as long as three predictions; 0 where nothing is known."""
        return self._usual.get("craft", 0.0) / 3 if method == "predict" else self._usual.get("predict", 0.0) * 3


def _mix(known: dict[Any, float], key: Any, new: float) -> None:
    """What was measured, new values counting for a fifth."""
    known[key] = new if key not in known else 0.8 * known[key] + 0.2 * new
