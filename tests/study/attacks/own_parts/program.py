"""A program: two tries from different random starts, and for each image the one with the higher loss."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch

from study.attacks.kinds import Program, ProgramContext


class Restarts(Program):
    """The attack's other components, run from `tries` random places of the budget."""

    name: ClassVar[str] = "restarts"

    tries: int = 2

    def run(self, given: ProgramContext) -> Sequence[torch.Tensor]:
        best: list[torch.Tensor] = []
        highest = torch.full((len(given.labels),), -torch.inf)
        for number in range(self.tries):
            away = given.draws(self, number=number).uniform(given.origin.shape[1:])
            ends = [given.project(one) for one in given.loop((given.epsilon or 8.0) * away)]
            logits = given.forward(given.origin + ends[-1], 0)
            loss = torch.nn.functional.cross_entropy(logits, given.labels, reduction="none")
            better = (loss > highest.to(loss.device))[:, None, None, None]
            best = [torch.where(better, one, old) for one, old in zip(ends, best or ends, strict=True)]
            highest = torch.maximum(highest.to(loss.device), loss)
        return best

    def cost(self, steps: int, sources: int, views: int) -> int:
        return self.tries * steps * views
