"""A point rule with state: the mean of this gradient and that of the last step, looked up a little ahead."""

from __future__ import annotations

from typing import ClassVar

import torch

from study.attacks.kinds import Inner, Point, State, StepContext


class Memory(Point):
    """The gradient here and one step along its sign, with `share` of the last step's mean."""

    name: ClassVar[str] = "memory"

    share: float = 0.5

    def calls(self, steps: int) -> tuple[int, int]:
        return steps, steps

    def gradient(self, delta: torch.Tensor, step: StepContext, inner: Inner, state: State) -> torch.Tensor:
        here = inner(delta)
        ahead = step.gradient(step.origin + step.project(delta + step.size * here.sign()), 1)
        mean = (here + ahead) / 2
        last = state.get("mean")
        state["mean"] = mean
        return mean if last is None else (1 - self.share) * mean + self.share * last
