"""How much memory a study's work takes: what its models hold, and the most that one call needs beside that.

What is estimated for a network (`study.models.memory`) takes seconds, so it is kept in the user's cache directory.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from study import json_file
from study.errors import StudyError
from study.keyed import digest
from study.labels import LabelSet
from study.models.reference import Model

if TYPE_CHECKING:
    from study.models.memory import Memory

_KEPT = "memory-1.json"


class Call(NamedTuple):
    """What one call takes, in bytes, `images` at a time; `parameters` are those of its models."""

    peak: float
    parameters: float
    what: str
    images: int

    def at(self, images: int) -> Call:
        """The same call on passes of another size: what passes take grows with their images."""
        passes = (self.peak - self.parameters) * images / self.images
        return Call(self.parameters + passes, self.parameters, self.what, images)


@dataclass(frozen=True)
class Needs:
    """What each model takes, in bytes, for as long as it is held: parameters and buffers; and what calls take."""

    held: Mapping[str, float]
    calls: tuple[Call, ...]

    def at(self, images: int) -> Needs:
        """The same on passes of another size."""
        return Needs(self.held, tuple(call.at(images) for call in self.calls))

    @property
    def peak(self) -> float:
        """The most that a call takes, its models included."""
        return max((call.peak for call in self.calls), default=0.0)

    @property
    def working(self) -> float:
        """The most that a call takes beside the models that it needs."""
        return max((call.peak - call.parameters for call in self.calls), default=0.0)

    @property
    def largest(self) -> str:
        """Which call takes most, for people."""
        if not self.calls:
            return "nothing"
        most = max(self.calls)
        passes = _mib(most.peak - most.parameters)
        return (
            f"{most.what}, {most.images} images at a time: {_mib(most.parameters)} of parameters, {passes} for a pass"
        )


def needs(
    models: Mapping[str, Model],
    sources: Iterable[Sequence[str]],
    *,
    labels: LabelSet,
    channels: int,
    batch: int,
    allow_code: bool,
    say: Callable[[str], None],
) -> Needs | None:
    """What crafting on each of `sources` and predicting with each of `models`, `batch` images at a time, takes.

    The members of an ensemble hold what their gradients need at the same time. None, which is said, where that cannot
    be told of some network. Code of the user's own runs only with `allow_code`.
    """
    found: dict[str, Memory] = {}
    try:
        kept = _read()
    except StudyError as error:
        say(f"{error.what}: it is left out of account, and written anew")
        kept = {}
    for name, model in models.items():
        if model.remote is not None:
            continue
        try:
            found[name] = _memory(model, labels, channels, batch, kept, allow_code=allow_code)
        except StudyError as error:
            say(f"what model '{name}' needs cannot be estimated, so memory is not planned with: {error.what}")
            return None
    calls = [Call(one.forward, one.parameters, f"predictions of {name}", batch) for name, one in found.items()]
    for one in filter(None, sources):
        gradient, parameters = (sum(getattr(found[name], what) for name in one) for what in ("gradient", "parameters"))
        calls.append(Call(gradient, parameters, f"gradients of {' + '.join(one)}", batch))
    return Needs({name: float(one.parameters) for name, one in found.items()}, tuple(calls))


def _mib(size: float) -> str:
    return f"{size / 2**20:,.0f} MiB"


def _memory(
    model: Model, labels: LabelSet, channels: int, batch: int, kept: dict[str, dict[str, int]], *, allow_code: bool
) -> Memory:
    """The estimate for one model: one of those that are `kept` where it was made before, else it is added to them."""
    import torch

    from study.models import zoo
    from study.models.memory import Memory, build_meta, estimate

    same = model.model_copy(update={"transform": None, "weights": None if _elsewhere(model) else model.weights})
    key = digest(same.model_dump(mode="json"), labels.name, len(labels), channels, batch, torch.__version__)
    if key in kept:
        with contextlib.suppress(TypeError):
            return Memory(**kept[key])
    network = build_meta(model, labels=labels, allow_code=allow_code)
    wanted = zoo.preprocessing_of(model, network, str(model.network))
    made = estimate(network, channels=len(wanted.mean), size=wanted.size, batch=batch)
    if model.zoo != "python":
        # The user's own code may be another tomorrow.
        kept[key] = asdict(made)
        _write(kept)
    return made


def _elsewhere(model: Model) -> bool:
    """Whether the weights change nothing about the network's shape: those of a file, or random ones."""
    return str(model.weights).partition(":")[0] in ("file", "random")


def _place() -> Path:
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return home / "study" / _KEPT


def _read() -> dict[str, dict[str, int]]:
    """What was estimated before. StudyError where the file is damaged."""
    try:
        return json_file.read(_place(), dict[str, dict[str, int]], todo="remove it")
    except FileNotFoundError:
        return {}


def _write(kept: Mapping[str, Mapping[str, int]]) -> None:
    """What cannot be kept is estimated again."""
    with contextlib.suppress(OSError):
        place = _place()
        place.parent.mkdir(parents=True, exist_ok=True)
        away = place.with_name(f"{place.name}.{os.getpid()}")
        away.write_text(json.dumps(kept))
        away.replace(place)
