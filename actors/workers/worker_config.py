"""What every actor of a study is given: its models, the labels and images that they speak of, and its numerics."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from actors.resources.placement import Role, service_of
from study.images.labels import LabelSet
from study.models.reference import Model
from study.models.services.credentials import credential_of
from study.reproducibility.numerics import Numerics

if TYPE_CHECKING:
    from study.models.services.credentials import Secret
    from study.spec.schema import Spec
    from study.storage.run_folder import RunFolder


@dataclass(frozen=True)
class ServiceAccess:
    """What a remote service needs beside its spec: the credential, and where its answers are kept for ever."""

    secret: Secret | None
    cache: Path


@dataclass(frozen=True)
class WorkerConfig:
    """Everything but the device. Survives pickling; a credential goes to the actor of its own service alone.

    `allow_code`: whether networks of the user's own code may run.
    """

    models: Mapping[str, Model]
    labels: LabelSet
    channels: int
    seed: int
    numerics: Numerics
    lines: Mapping[str, ServiceAccess] = field(default_factory=dict)
    allow_code: bool = False

    def of(self, role: Role) -> WorkerConfig:
        """What an actor of `role` is given."""
        service = service_of(role)
        return replace(self, lines={name: line for name, line in self.lines.items() if name == service})


def worker_config(spec: Spec, folder: RunFolder, *, allow_code: bool) -> WorkerConfig:
    """What the actors of a study are given; the folders of services' answers are there then."""
    lines = {}
    for name, model in spec.models.items():
        if model.remote is not None:
            lines[name] = ServiceAccess(credential_of(model.remote), folder.answers(name))
            lines[name].cache.parent.mkdir(parents=True, exist_ok=True)
    return WorkerConfig(
        spec.models, spec.labels, spec.images.channels, spec.seed, spec.numerics, lines, allow_code=allow_code
    )
