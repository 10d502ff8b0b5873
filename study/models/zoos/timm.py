"""The zoo timm. A tag in the name of a network (`resnet50.a1_in1k`) determines weights and preprocessing."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from study.errors import StudyError
from study.models.classifier import Mode, Preprocessing
from study.models.weights import locate

_MODES: dict[str, Mode] = {"center": "crop", "squash": "squash", "border": "border"}


def networks() -> Sequence[str]:
    import timm

    return list(timm.list_models())


def renamed(network: str) -> str | None:
    from timm.models import get_deprecated_models

    return get_deprecated_models().get(network)


def tags(network: str) -> Sequence[str]:
    import timm

    return [name.partition(".")[2] for name in timm.list_pretrained(f"{_bare(network)}.*")]


def outputs(network: str, tag: str) -> int:
    from timm.models import get_pretrained_cfg

    config = get_pretrained_cfg(f"{_bare(network)}.{tag}")
    assert config is not None, "timm lists these weights"
    return int(config.num_classes)


def headless(network: str) -> bool:
    from timm.models import get_pretrained_cfg

    config = get_pretrained_cfg(_bare(network))
    return config is not None and int(config.num_classes) == 0


def refuse(network: str, tag: str) -> None:
    """Do nothing, because no weights of timm are known to be unavailable."""


def defaults(network: str, classes: int | None) -> dict[str, Any]:
    return {} if classes is None else {"num_classes": classes}


def build(network: str, tag: str | None, arguments: Mapping[str, Any]) -> nn.Module:
    import timm

    if tag is None:
        random: nn.Module = timm.create_model(network, pretrained=False, **arguments)
        return random
    full = f"{_bare(network)}.{tag}"
    # Cached files are loaded directly, because timm itself would first contact the hub, and wait without a connection.
    cached = locate.timm_overlay(locate.of_timm(full))
    loaded: nn.Module = timm.create_model(full, pretrained=True, pretrained_cfg_overlay=cached, **arguments)
    return loaded


def preprocessing(network: str, tag: str | None, built: nn.Module) -> Preprocessing:
    config = _config(built)
    height, width = config["input_size"][-2:]
    if height != width:
        raise StudyError(
            f"timm:{network} takes images of {width} x {height} pixels",
            accepted="networks with a square input",
            todo="choose another network",
        )
    return Preprocessing(
        size=width,
        interpolation=config["interpolation"],
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
    )


def native(network: str, tag: str | None, built: nn.Module, size: int) -> tuple[int, Mode]:
    config = _config(built)
    crop: float = config.get("crop_pct") or 0.875
    return math.floor(size / crop), _MODES[config.get("crop_mode") or "center"]


def _config(built: nn.Module) -> dict[str, Any]:
    config: dict[str, Any] = built.pretrained_cfg  # type: ignore[assignment]
    return config


def _bare(network: str) -> str:
    return network.partition(".")[0]
