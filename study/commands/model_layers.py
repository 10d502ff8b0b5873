"""`study models --layers NAME`: print the layers of one model, with the names that a spec can use."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from typing import Any

from rich.console import Console

from study.errors import StudyError, names
from study.models import memory
from study.models.layers import Layers, layers_of
from study.spec.spec_file import SpecFile
from study.terminal.prose import exactly, say


def print_layers(file: SpecFile, console: Console, name: str, *, allow_code: bool, as_json: bool) -> None:
    """Print the layers of the model `name` of a spec, without loading weights.

    Raises StudyError if the spec has no such model, or the model has no network.
    """
    models = file.spec.models
    if name not in models:
        raise StudyError(
            f"the spec has no model '{name}'",
            where=file.where("models"),
            accepted=names(models, name),
            todo="correct --layers",
        )
    model = models[name]
    while model.model is not None:
        model = models[model.model]
    layers = layers_of(memory.build_meta(model, labels=file.spec.labels, allow_code=allow_code))
    described = {key: _known(read, layers) for key, read in _PROPERTIES.items()}
    if as_json:
        exactly(console, json.dumps({"model": name, "family": layers.family, **described}, indent=2))
        return
    say(console, f"{name}: {model.network}, family {layers.family}")
    for key, found in described.items():
        say(console, f"    {key}: {_worded(found)}")


def _known(read: Callable[[Layers], Any], layers: Layers) -> Any:
    """Return the property that `read` gets from `layers`, or `{"unknown": reason}` if `read` raises StudyError."""
    try:
        return read(layers)
    except StudyError as error:
        return {"unknown": error.what}


def _attention(layers: Layers) -> list[dict[str, Any]]:
    return [
        {"name": one.name, "qkv": list(one.qkv), "projection": one.projection, "map over": one.over}
        for one in layers.attention
    ]


def _patches(layers: Layers) -> str:
    found = layers.patches
    return f"{found.size} pixels every {found.stride}, from {found.embedding}, after {found.prefix} other tokens"


_PROPERTIES: dict[str, Callable[[Layers], Any]] = {
    "stages": lambda layers: list(layers.stages),
    "middle": lambda layers: layers.middle,
    "ends of residual branches": lambda layers: [branch.name for branch in layers.blocks],
    "attention": _attention,
    "MLPs": lambda layers: list(layers.mlps),
    "patches": _patches,
    "activations": lambda layers: dict(Counter(one.kind for one in layers.activations)),
    "head": lambda layers: list(layers.head),
}


def _worded(found: Any) -> str:
    if isinstance(found, dict):
        return ", ".join(f"{key}: {count}" if key == "unknown" else f"{count} {key}" for key, count in found.items())
    if isinstance(found, list):
        parts = [one if isinstance(one, str) else one["name"] for one in found]
        return f"{len(parts)}: {', '.join(parts)}" if parts else "none"
    return str(found)
