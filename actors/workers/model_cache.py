"""The models that an actor holds: loaded once, kept until the policy says otherwise."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from actors.workers.worker_config import WorkerConfig
from study.errors import StudyError
from study.events.repairs import repaired
from study.reproducibility.numerics import fix

if TYPE_CHECKING:
    from study.models.classifier import Classifier
    from study.models.reference import Model


@dataclass(frozen=True)
class ModelRequest:
    """Models that a call needs, with the digests they must have (None: not known yet), and models to let go first."""

    models: Mapping[str, str | None]
    drop: tuple[str, ...] = ()


class Pinned:
    """Models by name on one device, in a process with fixed numerics.

    Models that differ by the transformation in front of them share one network.
    """

    def __init__(self, kit: WorkerConfig, device: str) -> None:
        if device == "cpu":
            os.environ["CUDA_VISIBLE_DEVICES"] = ""
        fix(kit.numerics.threads)
        self.kit = kit
        self.device = device
        self._held: dict[str, Classifier] = {}
        self._loads: dict[str, float] = {}

    def loads(self) -> dict[str, float]:
        """Seconds that models took to load since this was last asked, by name."""
        told, self._loads = self._loads, {}
        return told

    def get(self, pin: ModelRequest) -> list[Classifier]:
        """The models of `pin` in its order. Raises StudyError where one cannot be loaded or is not the one it was."""
        self._drop(pin.drop)
        for name, digest in pin.models.items():
            if name not in self._held:
                self._held[name] = self._shared(self.kit.models[name]) or self._make_room(name, pin)
            self._compile(name)
            model = self.kit.models[name]
            check_digest(name, model.digest_of(self._held[name].digest), digest, code=model.zoo == "python")
        return [self._held[name] for name in pin.models]

    def _shared(self, model: Model) -> Classifier | None:
        network, models = model.without_transform, self.kit.models
        return next((one for name, one in self._held.items() if models[name].without_transform == network), None)

    def _make_room(self, name: str, pin: ModelRequest) -> Classifier:
        """A model that is new here. Where the device has no memory for it, what the call does not need goes first."""
        import torch

        try:
            return self._load(name)
        except torch.OutOfMemoryError:
            repaired("memory", f"models were let go, for {self.device} had no memory left for {name}")
            self._drop([one for one in self._held if one not in pin.models])
            return self._load(name)

    def _load(self, name: str) -> Classifier:
        begun = time.perf_counter()
        loaded = self._loaded(name)
        self._loads[name] = time.perf_counter() - begun
        return loaded

    def _loaded(self, name: str) -> Classifier:
        from study.models import loading

        numerics = self.kit.numerics
        try:
            return loading.load(
                name,
                self.kit.models[name],
                labels=self.kit.labels,
                channels=self.kit.channels,
                device=self.device,
                fold=numerics.fold,
                layout=numerics.layout,
                allow_code=self.kit.allow_code,
            )
        except StudyError as error:
            # Files that one machine has another may lack.
            error.what += f" (on {socket.gethostname()})"
            raise

    def _compile(self, name: str) -> None:
        """Models that take gradients run compiled, if the spec says so; predictions never do."""
        how = self.kit.numerics.compile
        if how and not self.kit.models[name].target_only and not self._held[name].compiled:
            self._held[name].compile_with(how)

    def _drop(self, names: Iterable[str]) -> None:
        for name in names:
            self._held.pop(name, None)
        if names and self.device != "cpu":
            import torch

            torch.cuda.empty_cache()


def check_digest(name: str, found: str, wanted: str | None, *, code: bool = False) -> None:
    """Raises StudyError where a model is not the one that the study began with; None: it has just begun.

    `code`: its network is code of the user's own.
    """
    if wanted is not None and found != wanted:
        what = "the code (its file, or what that imports from beside it), the weights" if code else "the weights"
        raise StudyError(
            f"{what} or the preprocessing of model '{name}' are not those that this study began with",
            accepted=f"digest {wanted[:12]}…; found {found[:12]}…",
            todo="bring the old ones back, or launch into a new folder with --output",
        )
