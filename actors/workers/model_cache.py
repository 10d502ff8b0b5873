"""The models that a worker holds: loaded once, and kept until the scheduling policy drops them."""

from __future__ import annotations

import functools
import socket
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from actors.workers.worker_config import WorkerConfig
from study.errors import StudyError
from study.events import activity
from study.events.repairs import repaired
from study.models.device_errors import OutOfMemory, attempt
from study.reproducibility.numerics import fix

if TYPE_CHECKING:
    from study.models.classifier import Classifier
    from study.models.reference import Model


@dataclass(frozen=True)
class ModelRequest:
    """The models of a call with the digests that they must have (None: not known yet), and the models to drop first."""

    models: Mapping[str, str | None]
    drop: tuple[str, ...] = ()


class ModelCache:
    """Models by name on one device. Creating it fixes the numerics of the process.

    Models that differ only by the transformation in front of them share one network.
    """

    def __init__(self, config: WorkerConfig, device: str) -> None:
        fix(config.numerics.threads, device=device, deterministic=config.numerics.deterministic)
        self.config = config
        self.device = device
        self._held: dict[str, Classifier] = {}
        self._loads: dict[str, float] = {}

    def loads(self) -> dict[str, float]:
        """Seconds of each load since the last call of this method, by model."""
        loads, self._loads = self._loads, {}
        return loads

    def get(self, request: ModelRequest) -> list[Classifier]:
        """The models of `request` in its order. Raises StudyError where one cannot be loaded or has another digest."""
        self._drop(request.drop)
        for name, digest in request.models.items():
            if name not in self._held:
                self._held[name] = self._shared(self.config.models[name]) or self._load_new(name, request)
            self._compile(name)
            model = self.config.models[name]
            check_digest(name, model.digest_of(self._held[name].digest), digest, code=model.zoo == "python")
        return [self._held[name] for name in request.models]

    def _shared(self, model: Model) -> Classifier | None:
        network, models = model.without_transform, self.config.models
        return next((one for name, one in self._held.items() if models[name].without_transform == network), None)

    def _load_new(self, name: str, request: ModelRequest) -> Classifier:
        """Load a model. If the device has too little memory, drop the models that the call does not need and retry."""
        loaded = attempt(functools.partial(self._load, name))
        if not isinstance(loaded, OutOfMemory):
            return loaded
        repaired(
            "memory",
            f"{self.device} had no memory left for {name}: models that the call does not need were dropped",
        )
        self._drop([one for one in self._held if one not in request.models])
        return self._load(name)

    def _load(self, name: str) -> Classifier:
        begun = time.perf_counter()
        with activity.here.at(f"loading {name}"):
            loaded = self._loaded(name)
        self._loads[name] = time.perf_counter() - begun
        return loaded

    def _loaded(self, name: str) -> Classifier:
        from study.models import loading

        numerics = self.config.numerics
        try:
            return loading.load(
                name,
                self.config.models[name],
                labels=self.config.labels,
                channels=self.config.channels,
                device=self.device,
                fold=numerics.fold,
                layout=numerics.layout,
                allow_code=self.config.allow_code,
            )
        except StudyError as error:
            # Another machine may have the file that this one lacks.
            error.what += f" (on {socket.gethostname()})"
            raise

    def _compile(self, name: str) -> None:
        """Compile a model that gradients are taken of, if the spec says so; predictions run without compilation."""
        how = self.config.numerics.compile
        if how and not self.config.models[name].target_only and not self._held[name].compiled:
            self._held[name].compile_with(how)

    def _drop(self, names: Iterable[str]) -> None:
        for name in names:
            self._held.pop(name, None)
        if names and self.device != "cpu":
            import torch

            torch.cuda.empty_cache()


def check_digest(name: str, found: str, wanted: str | None, *, code: bool = False) -> None:
    """Raise StudyError where a model's digest is not the one that the study began with (None: not known yet).

    `code`: whether its network is defined in the user's own Python code.
    """
    if wanted is not None and found != wanted:
        parts = "the code (its file or the modules beside it), the weights" if code else "the weights"
        raise StudyError(
            f"{parts} or the preprocessing of model '{name}' have changed since this study began",
            accepted=f"digest {wanted[:12]}…; found {found[:12]}…",
            todo="restore the old ones, or launch into a new folder with --output",
        )
