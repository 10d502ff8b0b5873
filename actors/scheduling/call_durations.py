"""Learns from finished calls how long calls and loads of models take."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from actors.scheduling.backlog import Method, Task
from actors.scheduling.messages import CallResult
from actors.scheduling.policy import Group


class CallDurations:
    """Running means of seconds per unit of cost, by kind of task, and of seconds per load, by model."""

    def __init__(self) -> None:
        self._by_key: dict[object, float] = {}
        self._by_method: dict[str, float] = {}
        self._loads: dict[str, float] = {}

    @property
    def loads(self) -> Mapping[str, float]:
        """Seconds to load a model, by name."""
        return self._loads

    def learn(self, task: Task, value: Any, seconds: float) -> None:
        """Learn from a finished call with the result `value`.

        `seconds`: the time of the call, used if the result does not hold the time that the worker measured.
        """
        if isinstance(value, CallResult):
            seconds = value.seconds - sum(value.loads.values())
            for name, loading in value.loads.items():
                _update(self._loads, name, loading)
        rate = seconds / max(task.cost, 1e-9)
        _update(self._by_key, task.key, rate)
        _update(self._by_method, task.method, rate)

    def in_seconds(self, group: Group) -> Group:
        """Convert the cost of a group to seconds.

        The rate comes from finished calls with the same key; if there are none, from calls of the same method; if there
        are none, from calls of the other method. Before any call has finished, the group is returned unchanged.
        """
        method: Method = group.key[1]  # type: ignore[index]
        rate = self._by_key.get(group.key) or self._by_method.get(method, self._guess(method))
        return group._replace(cost=group.cost * rate, coming=group.coming * rate) if rate else group

    def is_late(self, task: Task, seconds: float, patience: float) -> bool:
        """Whether a call has run for `seconds`, at least `patience` and three times as long as similar calls take.

        False if no similar call has finished.
        """
        rate = self._by_key.get(task.key)
        if rate is None:
            return False
        loading = sum(self._loads.get(name, 0.0) for name in task.models)
        return seconds >= max(patience, 3 * (rate * task.cost + loading))

    def _guess(self, method: Method) -> float:
        """Guess seconds per cost from the other method: a gradient takes about three predictions. 0 if unknown."""
        return self._by_method.get("craft", 0.0) / 3 if method == "predict" else self._by_method.get("predict", 0.0) * 3


def _update(means: dict[Any, float], key: Any, new: float) -> None:
    """Update an exponential mean, with weight 0.2 for the new value."""
    means[key] = new if key not in means else 0.8 * means[key] + 0.2 * new
