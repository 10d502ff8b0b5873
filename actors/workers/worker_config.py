"""What every actor of a study is given: its models, the labels and images that they speak of, and its numerics."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from actors.placement import Role, service_of
from study.labels import LabelSet
from study.models.reference import Model
from study.numerics import Numerics

if TYPE_CHECKING:
    from study.models.remote import Remote
    from study.models.service import Secret
    from study.run_folder import RunFolder
    from study.spec import Spec


@dataclass(frozen=True)
class Line:
    """What a remote service needs beside its spec: the credential, and where its answers are kept for ever."""

    secret: Secret | None
    cache: Path


@dataclass(frozen=True)
class Kit:
    """Everything but the device. Survives pickling; a credential goes to the actor of its own service alone.

    `allow_code`: whether networks of the user's own code may run.
    """

    models: Mapping[str, Model]
    labels: LabelSet
    channels: int
    seed: int
    numerics: Numerics
    lines: Mapping[str, Line] = field(default_factory=dict)
    allow_code: bool = False

    def of(self, role: Role) -> Kit:
        """What an actor of `role` is given."""
        service = service_of(role)
        return replace(self, lines={name: line for name, line in self.lines.items() if name == service})


def kit(spec: Spec, folder: RunFolder, *, allow_code: bool) -> Kit:
    """What the actors of a study are given; the folders of services' answers are there then."""
    lines = {}
    for name, model in spec.models.items():
        if model.remote is not None:
            lines[name] = Line(secret(model.remote), folder.answers(name))
            lines[name].cache.parent.mkdir(parents=True, exist_ok=True)
    return Kit(spec.models, spec.labels, spec.images.channels, spec.seed, spec.numerics, lines, allow_code=allow_code)


def secret(remote: Remote) -> Secret | None:
    """The credential of a service, which stands in the environment of the driver and nowhere else."""
    from study.models.service import Secret

    return None if remote.credentials is None else Secret.from_environment(remote.credentials)
