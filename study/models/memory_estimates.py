"""Estimates of the memory that models need. An estimate takes seconds, so it is kept in the user's cache directory."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from study.errors import StudyError
from study.images.labels import LabelSet
from study.models.reference import Model
from study.reproducibility.hashing import digest
from study.storage import json_file

if TYPE_CHECKING:
    from study.models.memory import Memory

_FILE = "memory-1.json"


def estimates(
    models: Mapping[str, Model],
    *,
    labels: LabelSet,
    channels: int,
    batch: int,
    allow_code: bool,
    say: Callable[[str], None],
) -> dict[str, Memory] | None:
    """Return the memory of each local model for passes of `batch` images, in bytes.

    If the memory of a network cannot be estimated, calls `say` with the reason and returns None. The user's own code
    runs only with `allow_code`.
    """
    found: dict[str, Memory] = {}
    try:
        cached = _read()
    except StudyError as error:
        say(f"{error.what}: the file is ignored and rewritten")
        cached = {}
    for name, model in models.items():
        if model.remote is not None:
            continue
        try:
            found[name] = _estimate(model, labels, channels, batch, cached, allow_code=allow_code)
        except StudyError as error:
            say(f"the memory of model '{name}' cannot be estimated, so memory is not planned: {error.what}")
            return None
    return found


def _estimate(
    model: Model, labels: LabelSet, channels: int, batch: int, cached: dict[str, dict[str, int]], *, allow_code: bool
) -> Memory:
    """The estimate for one model: from `cached` if it is there, else computed and added to `cached`."""
    import torch

    from study.models import loading
    from study.models.memory import Memory, build_meta, estimate

    weights = None if _keep_shape(model) else model.weights
    same = model.model_copy(update={"transform": None, "role": None, "weights": weights})
    key = digest(same.model_dump(mode="json"), labels.name, len(labels), channels, batch, torch.__version__)
    if key in cached:
        with contextlib.suppress(TypeError):
            return Memory(**cached[key])
    network = build_meta(model, labels=labels, allow_code=allow_code)
    preprocessing = loading.preprocessing_of(model, network, str(model.network))
    new = estimate(network, channels=len(preprocessing.mean), size=preprocessing.size, batch=batch)
    if model.zoo != "python":
        # The user's own code may change between launches.
        cached[key] = asdict(new)
        _write(cached)
    return new


def _keep_shape(model: Model) -> bool:
    """Whether the network has the same shape without these weights: true for weights of files and random weights."""
    return str(model.weights).partition(":")[0] in ("file", "set", "random")


def _path() -> Path:
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return home / "study" / _FILE


def _read() -> dict[str, dict[str, int]]:
    """The cached estimates. Raises StudyError if the file is damaged."""
    try:
        return json_file.read(_path(), dict[str, dict[str, int]], todo="remove the file")
    except FileNotFoundError:
        return {}


def _write(cached: Mapping[str, Mapping[str, int]]) -> None:
    # Without a cache, the next launch estimates again.
    with contextlib.suppress(OSError):
        path = _path()
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f"{path.name}.{os.getpid()}")
        temporary.write_text(json.dumps(cached))
        temporary.replace(path)
