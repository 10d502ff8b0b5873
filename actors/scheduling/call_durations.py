"""Estimates how long calls and model loads take, from the durations of finished calls."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from actors.resources.placement import WORKER
from actors.scheduling.backlog import Method, Task
from actors.scheduling.messages import CallResult, CraftJob
from actors.scheduling.policy import SHORT_SECONDS, Group


class CallDurations:
    """Running means of the durations of calls and of model loads.

    Durations of calls are kept in seconds per unit of cost, for each key of tasks and for each method. Durations of
    loads are kept in seconds, for each model.
    """

    def __init__(self) -> None:
        self._by_key: dict[object, float] = {}
        self._by_method: dict[str, float] = {}
        self._loads: dict[str, float] = {}

    @property
    def loads(self) -> Mapping[str, float]:
        """The mean duration of loading each model in seconds, by name of the model."""
        return self._loads

    def learn(self, task: Task, value: Any, seconds: float) -> None:
        """Update the means with a finished call, whose result is `value`.

        `seconds`: the duration of the call, measured by the driver. It is used only if the result lacks the duration
        that the worker measured.
        """
        if isinstance(value, CallResult):
            seconds = value.seconds - sum(value.loads.values())
            for name, loading in value.loads.items():
                _update(self._loads, name, loading)
        rate = seconds / max(task.cost, 1e-9)
        _update(self._by_key, task.key, rate)
        _update(self._by_method, task.method, rate)

    def in_seconds(self, group: Group) -> Group:
        """Return the group with its cost converted to seconds.

        The rate (seconds per unit of cost) is the mean over finished calls with the same key. If there are none, it is
        the mean over calls with the same method. If there are none of these either, it is guessed from another method.
        If that method has no finished calls, the group is returned unchanged.
        """
        method: Method = group.key[1]  # type: ignore[index]
        rate = self._by_key.get(group.key) or self._by_method.get(method, self._guess(method))
        return group._replace(cost=group.cost * rate, coming=group.coming * rate) if rate else group

    def are_short(self, group: Group) -> bool:
        """Return whether the next task of a group is short, judged by its cost alone (see also `is_short`)."""
        rate = self._by_key.get(group.key)
        return rate is not None and group.role == WORKER and rate * group.largest <= SHORT_SECONDS

    def is_short(self, task: Task) -> bool:
        """Return whether a task takes at most `SHORT_SECONDS`, as far as finished calls show.

        Returns False for a service, and for an attack of another library, whose cost is unknown.
        """
        rate = self._by_key.get(task.key)
        if rate is None or task.service or _is_external(task):
            return False
        return rate * task.cost <= SHORT_SECONDS

    def is_late(self, task: Task, seconds: float, patience: float) -> bool:
        """Return whether a call that has run for `seconds` takes far too long.

        The limit is three times the duration of similar calls, but at least `patience` seconds. Returns False if no
        similar call has finished.
        """
        rate = self._by_key.get(task.key)
        if rate is None:
            return False
        loading = sum(self._loads.get(name, 0.0) for name in task.models)
        return seconds >= max(patience, 3 * (rate * task.cost + loading))

    def _guess(self, method: Method) -> float:
        """Return a guess of the seconds per unit of cost, from the rate of another method; 0 if that rate is unknown.

        A gradient takes about as long as three predictions.
        """
        return self._by_method.get("craft", 0.0) / 3 if method == "predict" else self._by_method.get("predict", 0.0) * 3


def _is_external(task: Task) -> bool:
    """Return whether a task runs an attack of another library."""
    return isinstance(task.job, CraftJob) and task.job.attack.external is not None


def _update(means: dict[Any, float], key: Any, new: float) -> None:
    """Update the exponential mean of `key` with the value `new`, which gets the weight 0.2."""
    means[key] = new if key not in means else 0.8 * means[key] + 0.2 * new
