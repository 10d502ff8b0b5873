"""Passes through source models: which models share a loss, which rows a pass holds, and their random draws."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from study.attacks.assembly import Assembly
from study.attacks.component import Component
from study.attacks.kinds import Pool, StepDraws
from study.devices.copies import uploaded
from study.devices.tables import kept
from study.models.classifier import Classifier
from study.reproducibility import numerics
from study.reproducibility.numerics import Precision
from study.reproducibility.rng import Streams, of_all_images

Logits = Callable[[Tensor], Tensor]
"""A source model: a function from pixels to logits.

Pixels are float (N, C, H, W) in 0..255, and logits are (N, classes), differentiable in the pixels.
"""


@dataclass(frozen=True)
class SourceGroup:
    """Source models with one common loss, and their weights in this loss.

    `share` is the weight of the group's step in the sum of the steps of all groups. `by_image` (models, N) replaces
    `weights` if every image has its own weights.
    """

    models: tuple[Logits, ...]
    weights: tuple[float, ...]
    share: float
    by_image: Tensor | None = None

    def shares(self, rows: PassRows, batch: int, given: Tensor) -> Tensor:
        """Return the weights of the models in a pass: (models, 1), or (models, N) if each row has its own weights.

        N is the number of `rows`, and `batch` is the number of images in the batch. The weights have the dtype and the
        device of `given`.
        """
        if self.by_image is None:
            return _weights(self.weights, given.device, given.dtype)
        return self.by_image[:, rows.index(given.device) % batch].to(given.device, given.dtype)


@kept
def _weights(weights: tuple[float, ...], device: torch.device, dtype: torch.dtype) -> Tensor:
    return uploaded(np.array(weights), device, dtype)[:, None]


@dataclass(frozen=True)
class PassRows:
    """The rows that one pass holds, as numbers of rows in a tensor of all copies of the batch.

    This tensor has all images of the first copy, then all images of the second copy, and so on.
    """

    numbers: range | tuple[int, ...]

    def of(self, copies: Tensor) -> Tensor:
        """Return these rows of `copies`, a tensor of all copies."""
        if isinstance(self.numbers, range):
            return copies[self.numbers.start : self.numbers.stop]
        return copies[self.index(copies.device)]

    def index(self, device: torch.device) -> Tensor:
        """Return the numbers of the rows as a tensor, int64, on the device."""
        return _index(self.numbers, device)

    def first(self, count: int) -> PassRows:
        """Return the first `count` rows."""
        return PassRows(self.numbers[:count])


@kept
def _index(numbers: range | tuple[int, ...], device: torch.device) -> Tensor:
    return uploaded(np.array(numbers, dtype=np.int64), device)


def groups(models: Sequence[Logits], weights: Sequence[float], *, separate: bool) -> list[SourceGroup]:
    """Return one group with all models, or, if `separate`, one group for each model.

    `weights` are the weights of the models. In separate groups, they become the groups' shares.
    """
    if separate:
        return [SourceGroup((model,), (1.0,), weight) for model, weight in zip(models, weights, strict=True)]
    return [SourceGroup(tuple(models), tuple(weights), 1.0)]


def views_per_pass(images: int, max_pass_images: int) -> int:
    """Return how many views of a batch of `images` images one pass may hold. The number is at least 1."""
    return max(1, max_pass_images // images)


def largest_pass(images: int, copies: int, max_pass_images: int) -> int:
    """Return the number of images in the largest pass of a batch of `images` images with `copies` views each.

    Each view counts as an image. If one loss depends on all views of an image, a pass may be larger: it has at least
    `copies` images.
    """
    return min(max_pass_images, images * min(copies, views_per_pass(images, max_pass_images)))


class RunningPass:
    """The rows of the pass that is running, and their random numbers. Implements `study.attacks.kinds.PassDraws`.

    A pass holds all rows of the copies that `begin` records, unless `cut` records only a part of these rows. Row r of
    all copies belongs to image r modulo the size of the batch.
    """

    def __init__(self, device: str, key: Sequence[object], pool: Pool | None) -> None:
        self._device = device
        self._key = key
        self._pool = pool
        self._streams: Streams | None = None
        self._origin: Tensor | None = None
        self._batch = -1
        self._step = -1
        self._copies: Sequence[int] = (0,)
        self._rows: PassRows | None = None

    def begin_batch(self, streams: Streams, origin: Tensor) -> None:
        """Record the images of a new batch, and the step -1.

        Step -1 is for passes before the first step, in which an objective may prepare tensors.
        """
        self._streams, self._origin = streams, origin
        self._batch += 1
        self.begin(-1, (0,))

    def begin(self, step: int, copies: Sequence[int]) -> None:
        """Record the step of the next passes, and the copies that they hold, one copy after the other."""
        self._step, self._copies, self._rows = step, copies, None

    def cut(self, rows: PassRows) -> None:
        """Record that the pass holds only the rows `rows` of the copies."""
        self._rows = rows

    def uniform(self, component: Component, shape: Sequence[int], stream: str = "") -> Tensor:
        return self._cut(torch.cat([one.uniform(shape, stream) for one in self._draws(component)]))

    def normal(self, component: Component, shape: Sequence[int], stream: str = "") -> Tensor:
        return self._cut(torch.cat([one.normal(shape, stream) for one in self._draws(component)]))

    def integers(self, component: Component, count: int, stream: str = "") -> NDArray[np.uint64]:
        found = np.concatenate([one.integers(count, stream) for one in self._draws(component)])
        return found if self._rows is None else found[list(self._rows.numbers)]

    def words(self, component: Component, count: int, stream: str = "") -> Tensor:
        return self._cut(torch.cat([one.words(count, stream) for one in self._draws(component)]))

    def common(self, component: Component, *, fixed: bool = False) -> StepDraws:
        step, number = (0, 0) if fixed else (max(self._step, 0), self.copy)
        return StepDraws(of_all_images(self._key), component.stream, self._device, step, number)

    def of_images(self, values: Tensor) -> Tensor:
        return self._cut(torch.cat([values] * len(self._copies)))

    @property
    def origin(self) -> Tensor:
        assert self._origin is not None, "a batch runs"
        return self._origin

    @property
    def batch(self) -> int:
        return self._batch

    @property
    def step(self) -> int:
        return self._step

    @property
    def copy(self) -> int:
        return self._copies[0]

    @property
    def pool(self) -> Pool | None:
        return self._pool

    def _cut(self, copies: Tensor) -> Tensor:
        return copies if self._rows is None else self._rows.of(copies)

    def _draws(self, component: Component) -> list[StepDraws]:
        assert self._streams is not None, "a batch runs"
        step = max(self._step, 0)
        return [StepDraws(self._streams, component.stream, self._device, step, copy) for copy in self._copies]


def in_precision(models: Sequence[Logits], precision: Precision) -> list[Logits]:
    """Return the models for passes in `precision`. The weights of a `Classifier` are cast once."""
    return [model.in_precision(precision) if isinstance(model, Classifier) else model for model in models]


def forward(model: Logits, seen: Tensor, precision: Precision) -> Tensor:
    """Return the logits of a model that computes in `precision`. Logits in bfloat16 are converted to float32."""
    with numerics.autocast(precision, seen.device.type):
        return full(model(seen))


def module_of(model: Logits) -> nn.Module:
    """Return the torch module of a source model. Raises TypeError if the model is a plain function."""
    if not isinstance(model, nn.Module):
        raise TypeError("an objective of features needs a torch module")
    return model


def full(tensor: Tensor) -> Tensor:
    """Return the tensor in float32 if it is in bfloat16, else the tensor itself."""
    return tensor.float() if tensor.dtype == torch.bfloat16 else tensor


@contextlib.contextmanager
def changed(assembly: Assembly, models: Sequence[Logits], names: Sequence[str], running: RunningPass) -> Iterator[None]:
    """Apply the attack's changes of the backward and the forward pass within the `with` block.

    Raises TypeError if the attack has changes and a model is no torch module.
    """
    changes = (*assembly.backward, *assembly.forward)
    if not changes:
        yield
        return
    held = {}
    for name, model in zip(names, models, strict=True):
        if not isinstance(model, nn.Module):
            raise TypeError(f"{changes[0].name} needs a torch module")
        held[name] = model
    with contextlib.ExitStack() as stack:
        for change in changes:
            stack.enter_context(change.applied(held, running))
        yield
