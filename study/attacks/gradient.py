"""The gradient of the loss at an image: over source models and views, in passes that fit into memory."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from study.attacks.assembly import Assembly
from study.attacks.component import Component
from study.attacks.kinds import AnyObjective, FeatureObjective, Goal, Pool, State, StepDraws
from study.attacks.views import Views
from study.devices.copies import uploaded
from study.devices.tables import kept
from study.models.classifier import Classifier
from study.models.device_errors import OutOfMemory, attempt, halved
from study.models.features import captured
from study.models.layers.named import network_of
from study.reproducibility import numerics
from study.reproducibility.numerics import Precision
from study.reproducibility.rng import Streams, of_all_images

Logits = Callable[[Tensor], Tensor]
"""A source model: float pixels (N, C, H, W) in 0..255 -> logits (N, classes), differentiable in the pixels."""


@dataclass(frozen=True)
class SourceGroup:
    """Source models with one common loss, and their weights in it. `share` is the group's weight in the update.

    `by_image` (models, N) takes the place of `weights` where every image has its own.
    """

    models: tuple[Logits, ...]
    weights: tuple[float, ...]
    share: float
    by_image: Tensor | None = None

    def shares(self, rows: PassRows, batch: int, given: Tensor) -> Tensor:
        """Return the weights of a pass of `rows`, of a batch of `batch` images: (models, 1), or (models, N).

        Their type and device are those of `given`; N is the number of rows.
        """
        if self.by_image is None:
            return _weights(self.weights, given.device, given.dtype)
        return self.by_image[:, rows.index(given.device) % batch].to(given.device, given.dtype)


@kept
def _weights(weights: tuple[float, ...], device: torch.device, dtype: torch.dtype) -> Tensor:
    return uploaded(np.array(weights), device, dtype)[:, None]


@dataclass(frozen=True)
class PassRows:
    """Rows of the copies that the passes of one gradient hold, one copy of the batch after the other."""

    numbers: range | tuple[int, ...]

    def of(self, copies: Tensor) -> Tensor:
        """Return these rows of a tensor of all copies."""
        if isinstance(self.numbers, range):
            return copies[self.numbers.start : self.numbers.stop]
        return copies[self.index(copies.device)]

    def index(self, device: torch.device) -> Tensor:
        """Return their numbers, int64, on the device."""
        return _index(self.numbers, device)

    def first(self, count: int) -> PassRows:
        """Return the first of them."""
        return PassRows(self.numbers[:count])


@kept
def _index(numbers: range | tuple[int, ...], device: torch.device) -> Tensor:
    return uploaded(np.array(numbers, dtype=np.int64), device)


def groups(models: Sequence[Logits], weights: Sequence[float], *, separate: bool) -> list[SourceGroup]:
    """Return one group with all models, or one group for each model if they are `separate`."""
    if separate:
        return [SourceGroup((model,), (1.0,), weight) for model, weight in zip(models, weights, strict=True)]
    return [SourceGroup(tuple(models), tuple(weights), 1.0)]


def views_per_pass(images: int, max_pass_images: int) -> int:
    """Number of views of each image in one pass."""
    return max(1, max_pass_images // images)


def largest_pass(images: int, copies: int, max_pass_images: int) -> int:
    """Number of images in the largest pass over `copies` views of each of `images` images."""
    return min(max_pass_images, images * min(copies, views_per_pass(images, max_pass_images)))


class RunningPass:
    """The rows of the pass that runs (`study.attacks.kinds.PassDraws`).

    Row r of a pass belongs to image r modulo the batch, unless `of` says otherwise.
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
        """Note the images of the next passes; a preparing pass may follow."""
        self._streams, self._origin = streams, origin
        self._batch += 1
        self.begin(-1, (0,))

    def begin(self, step: int, copies: Sequence[int]) -> None:
        """Note the copies that the next passes hold, one after the other."""
        self._step, self._copies, self._rows = step, copies, None

    def cut(self, rows: PassRows) -> None:
        """Note that the pass holds these rows of the copies only."""
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


@dataclass
class BatchGradients:
    """Gradients of one batch of images. Model parameters get no gradient, and no graph outlives a call.

    A pass has at most `max_pass_images` images. It exceeds the batch only for an attack with several views: then it
    holds whole batches of views, always the same number, summed in the same order. If the device runs out of memory,
    `max_pass_images` is halved for the rest of the attack; like another batch size, this changes rounding.
    """

    assembly: Assembly
    goal: Goal
    labels: Tensor
    views: Views
    streams: Streams
    origin: Tensor
    max_pass_images: int
    precision: Precision = "float32"
    running: RunningPass | None = None
    common: Streams | None = None
    """The random numbers that all images of the attack run share."""
    prepared: dict[int, Mapping[str, Tensor]] = field(default_factory=dict)
    """What an objective of features has prepared, by the id of the model."""
    layers: dict[int, Sequence[str]] = field(default_factory=dict)
    """The layers that it reads, likewise: they are looked up once, not in every pass."""
    losses: Tensor | None = None
    _passed: list[Tensor] = field(default_factory=list)

    def of(self, group: SourceGroup, image: Tensor, step: int, sample: int = 0) -> Tensor:
        """Return the gradient of the loss over all views of `image`, float (N, C, H, W).

        It is the mean of the views' gradients, or that of one loss of all views. `sample` numbers places in a step.
        Raises StudyError if the memory does not suffice for a single image.
        """
        copies = self.assembly.copies
        if self.assembly.together and copies > 1:
            return self._of_all_copies(group, image, step, range(sample * copies, (sample + 1) * copies))
        total: Tensor | None = None
        losses: list[Tensor] = []
        first = 0
        while first < copies:
            together = 1 if self.assembly.alone else views_per_pass(len(image), self.max_pass_images)
            these = range(first, min(copies, first + together))
            numbers = [sample * copies + copy for copy in these]
            part = attempt(functools.partial(self._summed, group, image, step, numbers))
            if isinstance(part, OutOfMemory):
                self._halve(part)
                continue
            total = part if total is None else total.add_(part)
            losses += self._passed
            first = these.stop
        assert total is not None, "an image has a view"
        self.losses = torch.cat(losses).view(copies, -1).mean(0)
        return total / copies if copies > 1 else total

    @contextlib.contextmanager
    def for_labels(self, labels: Tensor | None) -> Iterator[None]:
        """Take the loss for `labels` (N,) within the `with` block; None stands for the attack's own labels."""
        own = self.labels
        self.labels = own if labels is None else labels
        try:
            yield
        finally:
            self.labels = own

    def _summed(self, group: SourceGroup, image: Tensor, step: int, copies: Sequence[int]) -> Tensor:
        """The summed gradient over `copies`."""
        leaf = image.detach().requires_grad_(True)
        views = [self._view(group, leaf, step, copy) for copy in copies]
        stacked = views[0] if len(views) == 1 else torch.cat(views)
        if self.running is not None:
            self.running.begin(step, copies)
        self._passed = []
        upstream = self._upstream(group, stacked.detach(), self.labels.repeat(len(views)))
        if stacked is leaf:
            return upstream
        (through,) = torch.autograd.grad(stacked, leaf, upstream)
        return through

    def _view(self, group: SourceGroup, leaf: Tensor, step: int, copy: int) -> Tensor:
        """One copy of `leaf`. Its view can ask for gradients at places of its own."""

        def gradient(view: Tensor) -> Tensor:
            if self.running is not None:
                self.running.begin(step, (copy,))
            return self._upstream(group, view.detach(), self.labels)

        return self.views.make(leaf, step, copy, gradient)

    def _of_all_copies(self, group: SourceGroup, image: Tensor, step: int, copies: Sequence[int]) -> Tensor:
        """The gradient of one loss of all `copies`, such as that of their mean logits, in one pass for each image."""
        while True:
            found = attempt(functools.partial(self._in_common, group, image, step, copies))
            if not isinstance(found, OutOfMemory):
                return found
            if self.max_pass_images <= len(copies):
                # A pass with all copies of one image cannot be smaller.
                self.max_pass_images = 1
            self._halve(found)

    def _in_common(self, group: SourceGroup, image: Tensor, step: int, copies: Sequence[int]) -> Tensor:
        leaf = image.detach().requires_grad_(True)
        stacked = torch.cat([self._view(group, leaf, step, copy) for copy in copies])
        if self.running is not None:
            self.running.begin(step, copies)
        upstream = torch.empty_like(stacked)
        self._passed = []
        # All passes have one size, so that the place of an image in the batch changes no rounding.
        together = max(1, min(len(image), self.max_pass_images // len(copies)))
        while len(image) % together:
            together -= 1
        for first in range(0, len(image), together):
            images = range(first, first + together)
            rows = PassRows(tuple(at * len(image) + one for at in range(len(copies)) for one in images))
            if self.running is not None:
                self.running.cut(rows)
            labels = self.labels[images.start : images.stop]
            found = self._pass(group, rows.of(stacked.detach()), labels, rows)
            upstream[rows.index(upstream.device)] = found
        self.losses = torch.cat(self._passed)
        (through,) = torch.autograd.grad(stacked, leaf, upstream)
        return through

    def _upstream(self, group: SourceGroup, seen: Tensor, labels: Tensor) -> Tensor:
        """The gradient at the models' input, `max_pass_images` images at a time."""
        size = self.max_pass_images
        parts = []
        for at in range(0, len(seen), size):
            rows = PassRows(range(at, min(len(seen), at + size)))
            if self.running is not None:
                self.running.cut(rows)
            parts.append(self._pass(group, rows.of(seen), rows.of(labels), rows))
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _pass(self, group: SourceGroup, seen: Tensor, labels: Tensor, rows: PassRows) -> Tensor:
        """The gradient at `seen`; for several copies of the images of `labels`, that of one loss of all copies."""
        seen = seen.requires_grad_(True)
        objective = self.assembly.objective
        of_images, batch = rows.first(len(labels)), len(self.labels)
        with numerics.network_pass(self.precision):
            if isinstance(objective, FeatureObjective):
                losses = self._feature_losses(objective, group, seen, labels, rows)
                stacked = torch.stack(losses)
                loss = (group.shares(of_images, batch, stacked) * stacked).sum(0)
            else:
                logits = torch.stack([self._forward(model, seen) for model in group.models])
                if logits.shape[1] > len(labels):
                    logits = logits.reshape(len(logits), -1, len(labels), logits.shape[-1]).mean(1)
                shares = group.shares(of_images, batch, logits)
                loss = self.assembly.ensemble.loss(objective, logits, shares, labels, self.goal)
            (gradient,) = torch.autograd.grad(loss.sum(), seen)
        self._passed.append(loss.detach())
        return gradient

    def _forward(self, model: Logits, seen: Tensor) -> Tensor:
        """The logits of one model, in float32 whatever the precision."""
        return forward(model, seen, self.precision)

    def _feature_losses(
        self, objective: FeatureObjective, group: SourceGroup, seen: Tensor, labels: Tensor, rows: PassRows
    ) -> list[Tensor]:
        found = []
        places = rows.first(len(labels)).index(seen.device) % len(self.labels)
        for model in group.models:
            with captured(_module(model), self.layers[id(model)]) as features:
                logits = self._forward(model, seen)
            prepared = {name: one[places] for name, one in self.prepared[id(model)].items()}
            kept = {name: _full(one) for name, one in features.items()}
            if objective.together:
                kept = {name: one.reshape(-1, len(labels), *one.shape[1:]) for name, one in kept.items()}
                logits = logits.reshape(-1, len(labels), logits.shape[-1])
            found.append(objective.loss(kept, prepared, logits, labels, self.goal))
        return found

    def last_losses(self) -> Tensor:
        """Return the loss (N,) at the last gradient, as a mean over its views, without gradient."""
        assert self.losses is not None, "a gradient was asked for"
        return self.losses

    def logits(self, model: Logits, image: Tensor, step: int) -> Tensor:
        """Return the logits (N, classes) of one model at `image`, without views and without a gradient."""
        parts = []
        with torch.no_grad(), numerics.network_pass(self.precision):
            for at in range(0, len(image), self.max_pass_images):
                if self.running is not None:
                    self.running.begin(step, (0,))
                    self.running.cut(PassRows(range(at, min(len(image), at + self.max_pass_images))))
                parts.append(self._forward(model, image[at : at + self.max_pass_images]))
        return torch.cat(parts)

    def _halve(self, shortage: OutOfMemory) -> None:
        self.max_pass_images = halved(self.max_pass_images, shortage, "the gradient of a single image")


@dataclass(frozen=True)
class GroupAt:
    """The gradients that an ensemble rule asks for, at one step (`study.attacks.kinds.ModelsAt`)."""

    group: SourceGroup
    gradients: BatchGradients
    step: int
    steps: int
    size: float | Tensor
    epsilon: float | None
    draws: StepDraws
    project: Callable[[Tensor], Tensor]

    @property
    def count(self) -> int:
        return len(self.group.models)

    @property
    def weights(self) -> Sequence[float]:
        return self.group.weights

    @property
    def origin(self) -> Tensor:
        return self.gradients.origin

    @property
    def labels(self) -> Tensor:
        return self.gradients.labels

    @property
    def goal(self) -> Goal:
        return self.gradients.goal

    @property
    def objective(self) -> AnyObjective:
        return self.gradients.assembly.objective

    @property
    def common(self) -> StepDraws:
        assert self.gradients.common is not None, "an attack runs"
        return dataclasses.replace(self.draws, streams=self.gradients.common)

    def joint(self, image: Tensor, sample: int = 0) -> Tensor:
        return self.gradients.of(self.group, image, self.step, sample)

    def weighted(self, image: Tensor, weights: Tensor, sample: int = 0, among: Sequence[int] | None = None) -> Tensor:
        chosen = tuple(self.group.models[number] for number in (range(self.count) if among is None else among))
        group = SourceGroup(chosen, (1.0,) * len(chosen), 1.0, weights)
        return self.gradients.of(group, image, self.step, sample)

    def of(self, model: int, image: Tensor, sample: int = 0) -> Tensor:
        alone = SourceGroup((self.group.models[model],), (1.0,), 1.0)
        return self.gradients.of(alone, image, self.step, sample)

    def logits(self, model: int, image: Tensor) -> Tensor:
        return self.gradients.logits(self.group.models[model], image, self.step)


@dataclass(frozen=True)
class Fusion:
    """Asks the ensemble rule for the gradient of a group at one step."""

    group: SourceGroup
    gradients: BatchGradients
    step: int
    steps: int
    size: float | Tensor
    epsilon: float | None
    project: Callable[[Tensor], Tensor]
    state: State

    def __call__(self, image: Tensor, sample: int = 0) -> Tensor:
        """Return the gradient at `image`, float (N, C, H, W); `sample` numbers the places of a step."""
        rule = self.gradients.assembly.ensemble
        draws = StepDraws(self.gradients.streams, rule.stream, str(image.device), self.step, sample)
        models = GroupAt(
            self.group, self.gradients, self.step, self.steps, self.size, self.epsilon, draws, self.project
        )
        return rule.gradient(image, models, sample, self.state)


def layers_of(objective: FeatureObjective, model: Logits) -> Sequence[str]:
    """The layers of a source model that an objective of features reads, by the names in its network."""
    return objective.layers(network_of(_module(model)))


@dataclass
class Preparing:
    """One source model before the loop (`study.attacks.kinds.PreparingSource`)."""

    model: Logits
    names: Sequence[str]
    origin: Tensor
    labels: Tensor
    goal: Goal
    draws: StepDraws
    true: Tensor
    wanted: NDArray[np.int64]
    first: Tensor | None = None
    path: Sequence[Tensor] = ()
    pool: Pool | None = None
    precision: Precision = "float32"

    def features(self, image: Tensor) -> Mapping[str, Tensor]:
        found, _ = self.forward(image)
        return found

    def forward(self, image: Tensor) -> tuple[Mapping[str, Tensor], Tensor]:
        with torch.no_grad(), self._pass(), captured(_module(self.model), self.names) as found:
            logits = forward(self.model, image, self.precision)
        return {name: _full(one.detach()) for name, one in found.items()}, logits

    def feature_gradients(self, image: Tensor, loss: Callable[[Tensor], Tensor]) -> Mapping[str, Tensor]:
        # The image requires a gradient, so that features do: parameters require none.
        with self._pass():
            with captured(_module(self.model), self.names) as found:
                logits = forward(self.model, image.detach().requires_grad_(True), self.precision)
            names = list(found)
            gradients = torch.autograd.grad(loss(logits).sum(), [found[name] for name in names])
        return {name: _full(one) for name, one in zip(names, gradients, strict=True)}

    def image_gradient(self, image: Tensor, loss: Callable[[Tensor], Tensor]) -> Tensor:
        leaf = image.detach().requires_grad_(True)
        with self._pass():
            logits = forward(self.model, leaf, self.precision)
            (gradient,) = torch.autograd.grad(loss(logits).sum(), leaf)
        return gradient

    def _pass(self) -> contextlib.AbstractContextManager[None]:
        return numerics.network_pass(self.precision)


def in_precision(models: Sequence[Logits], precision: Precision) -> list[Logits]:
    """The models for passes in `precision`: a classifier's weights are cast once."""
    return [model.in_precision(precision) if isinstance(model, Classifier) else model for model in models]


def forward(model: Logits, seen: Tensor, precision: Precision) -> Tensor:
    """The logits of a model whose operations compute in `precision`; the logits are float32, or the model's own."""
    with numerics.autocast(precision, seen.device.type):
        return _full(model(seen))


def _module(model: Logits) -> nn.Module:
    if not isinstance(model, nn.Module):
        raise TypeError("an objective of features needs a torch module")
    return model


def _full(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.dtype == torch.bfloat16 else tensor


@contextlib.contextmanager
def changed(assembly: Assembly, models: Sequence[Logits], names: Sequence[str], running: RunningPass) -> Iterator[None]:
    """Apply the attack's changes of the backward and the forward pass within the `with` block."""
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
