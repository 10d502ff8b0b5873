"""The models that an actor holds: loaded once, kept until the policy says otherwise."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from study.errors import StudyError
from study.models.reference import Model
from study.numerics import Numerics, fix

if TYPE_CHECKING:
    from study.models.classifier import Classifier


@dataclass(frozen=True)
class Pin:
    """Models that a call needs, with the digests they must have (None: not known yet), and models to let go first."""

    models: Mapping[str, str | None]
    drop: tuple[str, ...] = ()


class Pinned:
    """Models by name on one device, in a process with fixed numerics."""

    def __init__(self, models: Mapping[str, Model], device: str, numerics: Numerics, *, exact: bool) -> None:
        """`exact` models compute in float32, whatever precision gradients may have, and are not compiled."""
        if device == "cpu":
            os.environ["CUDA_VISIBLE_DEVICES"] = ""
        fix(numerics.threads, "float32" if exact else numerics.precision)
        self.numerics = numerics
        self._exact = exact
        self.device = device
        self._models = models
        self._held: dict[str, Classifier] = {}

    def get(self, pin: Pin) -> list[Classifier]:
        """The models of `pin` in its order. Raises StudyError where one cannot be loaded or is not the one it was."""
        from study.models import zoo

        self._drop(pin.drop)
        for name, digest in pin.models.items():
            if name not in self._held:
                self._held[name] = zoo.load(
                    name,
                    self._models[name],
                    device=self.device,
                    fold=self.numerics.fold,
                    layout=self.numerics.layout,
                )
                if self.numerics.compile and not self._exact:
                    self._held[name].compile_with(self.numerics.compile)
            if digest is not None and self._held[name].digest != digest:
                raise StudyError(
                    f"the weights or the preprocessing of model '{name}' are not those that this study began with",
                    accepted=f"digest {digest[:12]}…; found {self._held[name].digest[:12]}…",
                    todo="bring the old weights back, or launch into a new folder with --output",
                )
        return [self._held[name] for name in pin.models]

    def _drop(self, names: Iterable[str]) -> None:
        for name in names:
            self._held.pop(name, None)
        if names and self.device != "cpu":
            import torch

            torch.cuda.empty_cache()
