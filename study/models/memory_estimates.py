"""Estimates of the memory that models need. An estimate takes seconds, so results are kept in the user's cache."""

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
    """Return, for each model that is not a remote service, the memory of passes of `batch` images, in bytes.

    If the memory of a network cannot be estimated, `say` gets the reason, and the result is None. The user's own code
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
    """Return the estimate for one model from `cached`.

    If `cached` has no estimate for this model, it is computed, added to `cached`, and written to the cache file. The
    estimate for the user's own code is not added.
    """
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
        # Estimates for the user's own code are not cached, because the code may change between launches.
        cached[key] = asdict(new)
        _write(cached)
    return new


def _keep_shape(model: Model) -> bool:
    """Return whether the weights have no influence on the shape of the network.

    This is true for weights from files and for random weights. A zoo's weights determine the number of outputs.
    """
    return str(model.weights).partition(":")[0] in ("file", "set", "random")


def _path() -> Path:
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return home / "study" / _FILE


def _read() -> dict[str, dict[str, int]]:
    """Return the cached estimates; empty if the cache file does not exist. Raises StudyError if the file is damaged."""
    try:
        return json_file.read(_path(), dict[str, dict[str, int]], todo="remove the file")
    except FileNotFoundError:
        return {}


def _write(cached: Mapping[str, Mapping[str, int]]) -> None:
    # An error is ignored, because without a cache file the next launch only estimates again.
    with contextlib.suppress(OSError):
        path = _path()
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f"{path.name}.{os.getpid()}")
        temporary.write_text(json.dumps(cached))
        temporary.replace(path)
