"""The configuration of the workers of a study: models, labels, image format, seed and numerics."""

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
from study.spec.own_parts import NO_CODE, UserCode
from study.visibility.settings import LpipsOptions

if TYPE_CHECKING:
    from study.models.services.credentials import Secret
    from study.spec.schema import Spec
    from study.storage.run_folder import RunFolder


@dataclass(frozen=True)
class ServiceAccess:
    """Access to a remote service, and to the judge: the model that reads the sentences of a chat service.

    Attributes:
        secret: The credential of the service; None if it needs none.
        cache: The file that keeps the answers of the service.
        judge_secret: The credential of the judge; None if it needs none.
        verdicts: The file that keeps the answers of the judge.
    """

    secret: Secret | None
    cache: Path
    judge_secret: Secret | None
    verdicts: Path


@dataclass(frozen=True)
class WorkerConfig:
    """The configuration of a worker, without its device. Can be pickled.

    Attributes:
        models: The models of the study, by name.
        labels: The label set.
        channels: Number of channels of the images.
        seed: The seed of the study.
        numerics: The section `numerics:` of the spec.
        services: Access to the remote services, by model. An actor gets only the access to its own service.
        allow_code: Whether the user's own Python code may run.
        code: The user's own files that may run, as text.
        gpu_share: The share of a GPU that a worker may use, 0..1.
        lpips: The settings of the distance LPIPS; None if it is not computed.
    """

    models: Mapping[str, Model]
    labels: LabelSet
    channels: int
    seed: int
    numerics: Numerics
    services: Mapping[str, ServiceAccess] = field(default_factory=dict)
    allow_code: bool = False
    code: UserCode = NO_CODE
    gpu_share: float = 1.0
    lpips: LpipsOptions | None = None

    def of(self, role: Role) -> WorkerConfig:
        """Return the configuration for an actor of `role`. It gives access only to the actor's own service."""
        service = service_of(role)
        return replace(self, services={name: access for name, access in self.services.items() if name == service})


def worker_config(
    spec: Spec, folder: RunFolder, *, allow_code: bool, code: UserCode = NO_CODE, gpu_share: float = 1.0
) -> WorkerConfig:
    """Return the configuration of a study's workers. This creates the folders for the answers of services."""
    services = {}
    for name, model in spec.models.items():
        if model.remote is not None:
            judge = model.remote.judging
            services[name] = ServiceAccess(
                credential_of(model.remote),
                folder.answers(name),
                None if judge is None else credential_of(judge),
                folder.verdicts(name),
            )
            services[name].cache.parent.mkdir(parents=True, exist_ok=True)
    return WorkerConfig(
        spec.models,
        spec.labels,
        spec.images.channels,
        spec.seed,
        spec.numerics,
        services,
        allow_code=allow_code,
        code=code,
        gpu_share=gpu_share,
        lpips=spec.visibility.lpips,
    )
