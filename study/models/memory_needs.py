"""Estimate the memory of a study: of its models, and of the largest call.

An estimate for one network (`study.models.memory`) takes seconds, so it is kept in the user's cache folder.
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
"""Float copies of the images in a pass, apart from the networks: the images, their views, intermediate results,
gradients of both, and the momentum of an attack."""


class Passes(NamedTuple):
    """Images in one pass: on the CPU, and on any other device."""

    cpu: int
    elsewhere: int


@dataclass(frozen=True)
class Work:
    """Gradients of `models` together or, with `apart`, one after the other. All models stay in memory."""

    models: tuple[str, ...]
    passes: Passes
    apart: bool = False


class Call(NamedTuple):
    """The memory of one call in bytes: its `peak`, and the `parameters` of its models, for passes of `images` images.

    `elsewhere` is the number of images in one pass on another device than the CPU.
    """

    peak: float
    parameters: float
    what: str
    images: int
    elsewhere: int | None = None

    def at(self, images: int) -> Call:
        """The same call with passes of another size: the memory of a pass is proportional to its images."""
        passes = (self.peak - self.parameters) * images / self.images
        return Call(self.parameters + passes, self.parameters, self.what, images, self.elsewhere)


@dataclass(frozen=True)
class Needs:
    """Memory in bytes: `held` by each loaded model (parameters and buffers), and of `calls`."""

    held: Mapping[str, float]
    calls: tuple[Call, ...]

    def elsewhere(self) -> Needs:
        """The same for another device than the CPU, which has its own pass size."""
        return Needs(self.held, tuple(call.at(call.elsewhere or call.images) for call in self.calls))

    @property
    def peak(self) -> float:
        """The peak of the largest call in bytes, with its models."""
        return max((call.peak for call in self.calls), default=0.0)

    @property
    def working(self) -> float:
        """The peak of the largest call in bytes, without its models."""
        return max((call.peak - call.parameters for call in self.calls), default=0.0)

    @property
    def largest(self) -> str:
        """A description of the largest call."""
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
            say(f"the memory of model '{name}' cannot be estimated, so the plan ignores memory: {error.what}")
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
    """The estimate for one model: read from `kept`, or computed and added to `kept`."""
    import torch

    from study.models import loading
    from study.models.memory import Memory, build_meta, estimate

    same = model.model_copy(
        update={"transform": None, "weights": None if _independent_of_weights(model) else model.weights}
    )
    key = digest(same.model_dump(mode="json"), labels.name, len(labels), channels, batch, torch.__version__)
    if key in kept:
        with contextlib.suppress(TypeError):
            return Memory(**kept[key])
    network = build_meta(model, labels=labels, allow_code=allow_code)
    wanted = loading.preprocessing_of(model, network, str(model.network))
    made = estimate(network, channels=len(wanted.mean), size=wanted.size, batch=batch)
    if model.zoo != "python":
        # The user may change their own code.
        kept[key] = asdict(made)
        _write(kept)
    return made


def _independent_of_weights(model: Model) -> bool:
    """Whether the weights have no influence on the network's shape: a file, or random weights."""
    return str(model.weights).partition(":")[0] in ("file", "random")


def _place() -> Path:
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return home / "study" / _KEPT


def _read() -> dict[str, dict[str, int]]:
    """Read earlier estimates. Raises StudyError if the file is damaged."""
    try:
        return json_file.read(_place(), dict[str, dict[str, int]], todo="remove it")
    except FileNotFoundError:
        return {}


def _write(kept: Mapping[str, Mapping[str, int]]) -> None:
    """Keep the estimates; if the file cannot be written, they are computed again next time."""
    with contextlib.suppress(OSError):
        place = _place()
        place.parent.mkdir(parents=True, exist_ok=True)
        away = place.with_name(f"{place.name}.{os.getpid()}")
        away.write_text(json.dumps(kept))
        away.replace(place)
