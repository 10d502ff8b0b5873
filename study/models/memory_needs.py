"""How much memory a study's work takes: what its models hold, and the most that one call needs beside that.

What is estimated for a network (`study.models.memory`) takes seconds, so it is kept in the user's cache directory.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from study.errors import StudyError
from study.images.labels import LabelSet
from study.models.reference import Model
from study.reproducibility.hashing import digest
from study.storage import json_file

if TYPE_CHECKING:
    from study.models.memory import Memory

_KEPT = "memory-1.json"

_TENSORS = 8
"""Float images that a pass has beside what its networks take: the images, their views and both ends of how those were
made, gradients at both, and what an attack remembers of the last step."""


class Passes(NamedTuple):
    """Images in one pass: on a processor, and on any other device."""

    cpu: int
    elsewhere: int


@dataclass(frozen=True)
class Work:
    """Gradients of `models` at once, or, `apart`, of one after the other: all are held meanwhile."""

    models: tuple[str, ...]
    passes: Passes
    apart: bool = False


class Call(NamedTuple):
    """What one call takes, in bytes, `images` at a time; `parameters` are those of its models.

    `elsewhere` are the images at a time on another device than a processor.
    """

    peak: float
    parameters: float
    what: str
    images: int
    elsewhere: int | None = None

    def at(self, images: int) -> Call:
        """The same call on passes of another size: what passes take grows with their images."""
        passes = (self.peak - self.parameters) * images / self.images
        return Call(self.parameters + passes, self.parameters, self.what, images, self.elsewhere)


@dataclass(frozen=True)
class Needs:
    """What each model takes, in bytes, for as long as it is held: parameters and buffers; and what calls take."""

    held: Mapping[str, float]
    calls: tuple[Call, ...]

    def elsewhere(self) -> Needs:
        """The same on another device than a processor, which has passes of its own size."""
        return Needs(self.held, tuple(call.at(call.elsewhere or call.images) for call in self.calls))

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
    work: Iterable[Work],
    *,
    labels: LabelSet,
    channels: int,
    size: int,
    predictions: Passes,
    allow_code: bool,
    say: Callable[[str], None],
) -> Needs | None:
    """What the gradients of `work` take, and predictions with each of `models`, of images of `size` pixels a side.

    The members of an ensemble hold what their gradients need at the same time. None, which is said, where that cannot
    be told of some network. Code of the user's own runs only with `allow_code`.
    """
    found: dict[str, Memory] = {}
    try:
        kept = _read()
    except StudyError as error:
        say(f"{error.what}: it is left out of account, and written anew")
        kept = {}
    batch = predictions.cpu
    for name, model in models.items():
        if model.remote is not None:
            continue
        try:
            found[name] = _memory(model, labels, channels, batch, kept, allow_code=allow_code)
        except StudyError as error:
            say(f"what model '{name}' needs cannot be estimated, so memory is not planned with: {error.what}")
            return None
    images = _TENSORS * batch * channels * size**2 * 4
    calls = [
        Call(one.forward + images, one.parameters, f"predictions of {name}", batch, predictions.elsewhere)
        for name, one in found.items()
    ]
    for one in work:
        parameters = sum(found[name].parameters for name in one.models)
        passes = [found[name].gradient - found[name].parameters for name in one.models]
        taken = parameters + (max(passes) if one.apart else sum(passes)) + images
        call = Call(taken, parameters, f"gradients of {' + '.join(one.models)}", batch, one.passes.elsewhere)
        calls.append(call.at(one.passes.cpu))
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
