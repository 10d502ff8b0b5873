"""The project's own zoo: networks of the papers that no other zoo has. It has no weights for these networks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from study.models.classifier import Mode, Preprocessing


def networks() -> Sequence[str]:
    from study.models.networks import NETWORKS

    return list(NETWORKS)


def renamed(network: str) -> str | None:
    return None


def tags(network: str) -> Sequence[str]:
    return ()


def outputs(network: str, tag: str) -> int:
    raise AssertionError("these networks have no weights in a zoo")


def headless(network: str) -> bool:
    return False


def refuse(network: str, tag: str) -> None:
    """Do nothing, because this zoo has no weights."""


def defaults(network: str, classes: int | None) -> dict[str, Any]:
    return {} if classes is None else {"num_classes": classes}


def build(network: str, tag: str | None, arguments: Mapping[str, Any]) -> nn.Module:
    from study.models.networks import NETWORKS

    return NETWORKS[network](**arguments)


def preprocessing(network: str, tag: str | None, built: nn.Module) -> Preprocessing:
    from study.models.networks import PREPROCESSING

    return PREPROCESSING[network]


def native(network: str, tag: str | None, built: nn.Module, size: int) -> tuple[int, Mode]:
    return size, "squash"
