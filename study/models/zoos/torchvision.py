"""The zoo torchvision. A tag is the name of an entry in the network's enum of weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from study.errors import StudyError, names
from study.models.classifier import Mode, Preprocessing

_NORMALISE_INSIDE = ("googlenet", "inception_v3")


def networks() -> Sequence[str]:
    from torchvision import models

    return list(models.list_models(module=models))


def renamed(network: str) -> str | None:
    return None


def tags(network: str) -> Sequence[str]:
    from torchvision import models

    return [entry.name for entry in models.get_model_weights(network)]


def outputs(network: str, tag: str) -> int:
    from torchvision import models

    return len(models.get_model_weights(network)[tag].meta["categories"])


def headless(network: str) -> bool:
    return False


def refuse(network: str, tag: str) -> None:
    if tag == "DEFAULT":
        raise StudyError(
            f"torchvision:{network}/DEFAULT depends on the version of torchvision",
            accepted=names(tags(network)),
            todo="name the weights",
        )


def defaults(network: str, classes: int | None) -> dict[str, Any]:
    """Return arguments as in `Zoo.defaults`, with two further arguments for GoogLeNet and Inception v3.

    With `transform_input: True`, these networks rescale their own input. torchvision sets this argument only when it
    loads its own weights. With `aux_logits: False`, they have no auxiliary heads, which have no influence on
    predictions.
    """
    inside = {"transform_input": True, "aux_logits": False} if network in _NORMALISE_INSIDE else {}
    return inside if classes is None else {**inside, "num_classes": classes}


def build(network: str, tag: str | None, arguments: Mapping[str, Any]) -> nn.Module:
    from torchvision import models

    built: nn.Module = models.get_model(network, weights=tag, **arguments)
    return built


def preprocessing(network: str, tag: str | None, built: nn.Module) -> Preprocessing:
    transform = _transform(network, tag)
    return Preprocessing(
        size=transform.crop_size[0],
        interpolation=transform.interpolation.value,
        mean=tuple(transform.mean),
        std=tuple(transform.std),
    )


def native(network: str, tag: str | None, built: nn.Module, size: int) -> tuple[int, Mode]:
    transform = _transform(network, tag)
    return transform.resize_size[0] * size // transform.crop_size[0], "crop"


def _transform(network: str, tag: str | None) -> Any:
    from torchvision import models

    enum = models.get_model_weights(network)
    return (enum[tag] if tag else next(iter(enum))).transforms()
