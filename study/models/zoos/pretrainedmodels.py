"""The zoo pretrainedmodels by Cadene, which some papers used. The host of two thirds of its weights is gone."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import torch
from torch import nn

from study.errors import StudyError
from study.models.catalogue import GONE_HOST, PRETRAINEDMODELS_IN_TIMM, PRETRAINEDMODELS_IN_TORCHVISION
from study.models.classifier import Mode, Preprocessing


def networks() -> Sequence[str]:
    return list(_settings())


def renamed(network: str) -> str | None:
    return None


def tags(network: str) -> Sequence[str]:
    return list(_settings()[network])


def outputs(network: str, tag: str) -> int:
    return int(_settings()[network][tag]["num_classes"])


def headless(network: str) -> bool:
    return False


def refuse(network: str, tag: str) -> None:
    if tag not in _settings()[network]:
        return
    address = urlsplit(_settings()[network][tag]["url"])
    file = Path(torch.hub.get_dir()) / "checkpoints" / Path(address.path).name
    if address.hostname != GONE_HOST or file.is_file():
        return
    elsewhere = PRETRAINEDMODELS_IN_TIMM.get(network) or PRETRAINEDMODELS_IN_TORCHVISION.get(network)
    raise StudyError(
        f"the weights of pretrainedmodels:{network} were at {GONE_HOST}, which no longer exists, and {file} is missing",
        accepted=f"{elsewhere} (the same network and weights), or weights: file:<path>"
        if elsewhere
        else "weights: file:<path> (no other zoo has these weights)",
        todo=f"write {elsewhere} instead" if elsewhere else f"copy the weights to {file}, or remove this model",
    )


def defaults(network: str, classes: int | None) -> dict[str, Any]:
    return {} if classes is None else {"num_classes": classes}


def build(network: str, tag: str | None, arguments: Mapping[str, Any]) -> nn.Module:
    import pretrainedmodels

    settings = _settings()[network]
    given = {"num_classes": (settings[tag] if tag else _first(settings))["num_classes"], **arguments}
    make: Callable[..., nn.Module] = getattr(pretrainedmodels, network)
    # Some networks of this zoo share modules with other networks in the process. A copy shares no module.
    built = copy.deepcopy(make(pretrained=tag, **given))
    if tag is None and network.startswith("resnext"):
        # The library creates the module `features` of these networks when it is imported, before the seed is set.
        for module in built.get_submodule("features").modules():
            if isinstance(module, nn.Conv2d | nn.BatchNorm2d | nn.Linear):
                module.reset_parameters()
    # Networks that this zoo copied from torchvision ignore num_classes and have 1,000 outputs.
    last = getattr(built, "last_linear", None)
    if isinstance(last, nn.Linear) and last.out_features != given["num_classes"]:
        built.last_linear = nn.Linear(last.in_features, given["num_classes"])
    return built


def preprocessing(network: str, tag: str | None, built: nn.Module) -> Preprocessing:
    settings = _settings()[network]
    setting = settings[tag] if tag else _first(settings)
    return Preprocessing(
        size=setting["input_size"][-1],
        interpolation="bilinear",
        mean=tuple(setting["mean"]),
        std=tuple(setting["std"]),
        scale=255.0 / setting["input_range"][-1],
        channels=setting["input_space"],
    )


def native(network: str, tag: str | None, built: nn.Module, size: int) -> tuple[int, Mode]:
    return math.floor(size / 0.875), "crop"


def _settings() -> dict[str, dict[str, dict[str, Any]]]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import pretrainedmodels

    settings: dict[str, dict[str, dict[str, Any]]] = pretrainedmodels.pretrained_settings
    return settings


def _first(settings: dict[str, dict[str, Any]]) -> dict[str, Any]:
    return next(iter(settings.values()))
