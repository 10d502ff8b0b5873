"""A backward change: gradients through activations at the end of the network are passed on where they were blocked."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import ClassVar

import torch

from study.attacks.kinds import BackwardChange, PassDraws
from study.models.features import changed_backward
from study.models.layers.catalogue import layers_of


class Damped(BackwardChange):
    """Gradients at the ends of all stages but the first are multiplied by `factor`."""

    name: ClassVar[str] = "damped"

    factor: float = 0.5

    @contextlib.contextmanager
    def applied(self, models: Mapping[str, torch.nn.Module], draws: PassDraws) -> Iterator[None]:
        with contextlib.ExitStack() as stack:
            for model in models.values():
                names = layers_of(model).stages[1:]
                changes = dict.fromkeys(names, lambda gradient: self.factor * gradient)
                stack.enter_context(changed_backward(model, changes))
            yield
