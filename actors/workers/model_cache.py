"""The models that a worker holds. Each is loaded once, and kept until the scheduling policy drops it.

If memory runs out while a model is loaded, models that the call does not need are dropped too.
"""

from __future__ import annotations

import functools
import socket
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from actors.workers.worker_config import WorkerConfig
from study.errors import StudyError
from study.events import activity
from study.events.repairs import repaired
from study.models.device_errors import OutOfMemory, attempt
from study.reproducibility.numerics import fix

if TYPE_CHECKING:
    from study.defences.stages import Stages
    from study.models.classifier import Classifier
    from study.models.reference import Model


@dataclass(frozen=True)
class ModelRequest:
    """The models that a call needs.

    Attributes:
        models: The digest that each model must have, by name of the model. A digest is None if it is not known yet.
        drop: The models that the worker must drop first.
    """

    models: Mapping[str, str | None]
    drop: tuple[str, ...] = ()


class ModelCache:
    """The models on one device, by name. Creating a cache sets the numerics of the process.

    Models that differ only in their transform (the defences in front of the network) share one network.
    """

    def __init__(self, config: WorkerConfig, device: str) -> None:
        fix(config.numerics.threads, device=device, deterministic=config.numerics.deterministic)
        self.config = config
        self.device = device
        self._held: dict[str, Classifier] = {}
        self._stages: dict[str, Stages] = {}
        self._loads: dict[str, float] = {}

    def loads(self) -> dict[str, float]:
        """Return the seconds of each model load since the last call of this method, by name of the model."""
        loads, self._loads = self._loads, {}
        return loads

    def get(self, request: ModelRequest) -> list[Classifier]:
        """Return the models of `request`, in its order. Models that the worker does not hold yet are loaded.

        Raises StudyError if a model cannot be loaded, or does not have the digest in `request`.
        """
        self._drop(request.drop)
        for name, digest in request.models.items():
            if name not in self._held:
                self._held[name] = self._shared(self.config.models[name]) or self._load_new(name, request)
            self._compile(name)
            model = self.config.models[name]
            stages = self.stages(name)
            found = model.digest_of(self._held[name].digest, None if stages is None else stages.digest)
            check_digest(name, found, digest, kind="code" if model.zoo == "python" else "network")
        return [self._held[name] for name in request.models]

    def stages(self, name: str) -> Stages | None:
        """Return the transform of a model (the defences in front of it), loaded once; None if there is no transform."""
        transform = self.config.models[name].transform
        if transform is not None and name not in self._stages:
            from study.defences.stages import Stages

            try:
                self._stages[name] = Stages(transform, self.device)
            except StudyError as error:
                error.what += f" (on {socket.gethostname()})"
                raise error.located(f"models.{name}.transform") from None
        return self._stages.get(name)

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
        from study.reproducibility import user_files

        numerics = self.config.numerics
        try:
            with user_files.carried(self.config.code.functions):
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
            # Name the machine in the message, because a file may be missing on this machine only.
            error.what += f" (on {socket.gethostname()})"
            raise

    def _compile(self, name: str) -> None:
        """Compile a model that can be a source, if the spec asks for it. Predictions run without compilation."""
        how = self.config.numerics.compile
        if how and not self.config.models[name].target_only and not self._held[name].compiled:
            self._held[name].compile_with(how)

    def _drop(self, names: Iterable[str]) -> None:
        for name in names:
            self._held.pop(name, None)
            self._stages.pop(name, None)
        if names and self.device != "cpu":
            import torch

            torch.cuda.empty_cache()


_CHANGEABLE = {
    "network": "the weights, the preprocessing or the defences of model",
    "code": "the code (its file or the modules beside it), the weights, the preprocessing or the defences of model",
    "service": "the address, the request or the defences of service",
}
"""What the digest of a model covers, by the kind of the model."""


def check_digest(
    name: str, found: str, wanted: str | None, *, kind: Literal["network", "code", "service"] = "network"
) -> None:
    """Raise StudyError if the digest of a model is not the one that earlier launches recorded.

    `found`: the digest of the model. `wanted`: the recorded digest; None if there is none yet. `kind`: whether
    the model is a network, a network that is defined in the user's own Python code, or a remote service.
    """
    if wanted is not None and found != wanted:
        old = "the old spec and the old files of the defences" if kind == "service" else "the old files"
        raise StudyError(
            f"{_CHANGEABLE[kind]} '{name}' have changed since this study began",
            accepted=f"digest {wanted[:12]}…; found {found[:12]}…",
            todo=f"restore {old}, or launch into a new folder with --output",
        )
