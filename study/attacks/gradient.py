"""The gradient of the loss at an image: over source models and views, in passes that fit into memory."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from study.attacks.assembly import Assembly
from study.attacks.component import Component
from study.attacks.kinds import FeatureObjective, Goal, State, StepDraws
from study.attacks.views import Views
from study.errors import StudyError
from study.models.features import captured
from study.models.layers.named import network_of
from study.reproducibility.numerics import Precision
from study.reproducibility.rng import Streams

Logits = Callable[[Tensor], Tensor]
"""A source model: float pixels (N, C, H, W) in 0..255 -> logits (N, classes), differentiable in the pixels."""


@dataclass(frozen=True)
class SourceGroup:
    """Source models with one common loss, and their weights in it. `share` is the group's weight in the update."""

    models: tuple[Logits, ...]
    weights: tuple[float, ...]
    share: float


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
    """The rows of the pass that runs: changes of a network draw random numbers for them.

    Row r of a pass belongs to image r modulo the batch; `copies` are the numbers of the copies that follow each other.
    """

    def __init__(self, device: str) -> None:
        self._device = device
        self._streams: Streams | None = None
        self._step = 0
        self._copies: Sequence[int] = ()
        self._rows = slice(None)

    def begin(self, streams: Streams, step: int, copies: Sequence[int]) -> None:
        """Note the copies that the next passes hold."""
        self._streams, self._step, self._copies, self._rows = streams, step, copies, slice(None)

    def cut(self, rows: slice) -> None:
        """Note that the pass holds these rows of the copies only."""
        self._rows = rows

    def uniform(self, component: Component, shape: Sequence[int], stream: str = "") -> Tensor:
        """Return float32 (rows, *shape), uniform over (-1, 1)."""
        return torch.cat([one.uniform(shape, stream) for one in self._draws(component)])[self._rows]

    def normal(self, component: Component, shape: Sequence[int], stream: str = "") -> Tensor:
        """Return float32 (rows, *shape), standard normal."""
        return torch.cat([one.normal(shape, stream) for one in self._draws(component)])[self._rows]

    def _draws(self, component: Component) -> list[StepDraws]:
        assert self._streams is not None, "a pass runs"
        return [StepDraws(self._streams, component.stream, self._device, self._step, copy) for copy in self._copies]


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
    max_pass_images: int
    precision: Precision = "float32"
    running: RunningPass | None = None
    prepared: dict[int, Mapping[str, Tensor]] = field(default_factory=dict)
    """What an objective of features has prepared, by the id of the model."""
    layers: dict[int, Sequence[str]] = field(default_factory=dict)
    """The layers that it reads, likewise: they are looked up once, not in every pass."""

    def of(self, group: SourceGroup, image: Tensor, step: int, sample: int = 0) -> Tensor:
        """Return the mean gradient over all views of `image`, float (N, C, H, W). `sample` numbers places in a step.

        Raises StudyError if the memory does not suffice for a single image.
        """
        copies = self.assembly.copies
        total: Tensor | None = None
        first = 0
        while first < copies:
            these = range(first, min(copies, first + views_per_pass(len(image), self.max_pass_images)))
            part = self._try(group, image, step, [sample * copies + copy for copy in these])
            if part is None:
                self._halve()
                continue
            total = part if total is None else total.add_(part)
            first = these.stop
        assert total is not None, "an image has a view"
        return total / copies if copies > 1 else total

    def _try(self, group: SourceGroup, image: Tensor, step: int, copies: Sequence[int]) -> Tensor | None:
        """The summed gradient over `copies`; None if the device runs out of memory."""
        try:
            leaf = image.detach().requires_grad_(True)
            views = [self.views.make(leaf, step, copy) for copy in copies]
            stacked = views[0] if len(views) == 1 else torch.cat(views)
            if self.running is not None:
                self.running.begin(self.streams, step, copies)
            upstream = self._upstream(group, stacked.detach(), self.labels.repeat(len(views)))
            if stacked is leaf:
                # A CUDA graph overwrites this memory with the next gradient.
                return upstream.clone() if upstream.is_cuda else upstream
            (through,) = torch.autograd.grad(stacked, leaf, upstream)
            return through
        except torch.OutOfMemoryError:
            return None

    def _upstream(self, group: SourceGroup, seen: Tensor, labels: Tensor) -> Tensor:
        """The gradient at the models' input, `max_pass_images` images at a time."""
        size = self.max_pass_images
        parts = []
        for at in range(0, len(seen), size):
            rows = slice(at, min(len(seen), at + size))
            if self.running is not None:
                self.running.cut(rows)
            parts.append(self._pass(group, seen[rows], labels[rows], rows))
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _pass(self, group: SourceGroup, seen: Tensor, labels: Tensor, rows: slice) -> Tensor:
        seen = seen.requires_grad_(True)
        objective = self.assembly.objective
        shares = torch.tensor(list(group.weights), dtype=torch.float64)[:, None]
        with torch.autocast(seen.device.type, torch.bfloat16, enabled=self.precision == "bfloat16"):
            if isinstance(objective, FeatureObjective):
                losses = self._feature_losses(objective, group, seen, labels, rows)
                stacked = torch.stack(losses)
                loss = (shares.to(stacked.device, stacked.dtype) * stacked).sum(0)
            else:
                logits = torch.stack([_full(model(seen)) for model in group.models])
                with torch.autocast(seen.device.type, enabled=False):
                    shares = shares.to(logits.device, logits.dtype)
                    loss = self.assembly.ensemble.loss(objective, logits, shares, labels, self.goal)
        (gradient,) = torch.autograd.grad(loss.sum(), seen)
        return gradient

    def _feature_losses(
        self, objective: FeatureObjective, group: SourceGroup, seen: Tensor, labels: Tensor, rows: slice
    ) -> list[Tensor]:
        found = []
        images = len(self.labels)
        places = torch.arange(rows.start, rows.stop, device=seen.device) % images
        for model in group.models:
            with captured(_module(model), self.layers[id(model)]) as features:
                logits = _full(model(seen))
            prepared = {name: one[places] for name, one in self.prepared[id(model)].items()}
            kept = {name: _full(one) for name, one in features.items()}
            found.append(objective.loss(kept, prepared, logits, labels, self.goal))
        return found

    def _halve(self) -> None:
        if self.max_pass_images == 1:
            raise StudyError(
                "the device does not have enough memory for the gradient of a single image",
                todo="use a device with more memory, fewer models in one ensemble, or a smaller images.size",
            )
        self.max_pass_images //= 2
        if self.labels.is_cuda:
            torch.cuda.empty_cache()


@dataclass(frozen=True)
class GroupAt:
    """The gradients that an ensemble rule asks for, at one step (`study.attacks.kinds.ModelsAt`)."""

    group: SourceGroup
    gradients: BatchGradients
    step: int
    steps: int
    draws: StepDraws

    @property
    def count(self) -> int:
        return len(self.group.models)

    @property
    def weights(self) -> Sequence[float]:
        return self.group.weights

    def joint(self, image: Tensor, sample: int = 0) -> Tensor:
        return self.gradients.of(self.group, image, self.step, sample)

    def of(self, model: int, image: Tensor, sample: int = 0) -> Tensor:
        alone = SourceGroup((self.group.models[model],), (1.0,), 1.0)
        return self.gradients.of(alone, image, self.step, sample)


def fused(
    group: SourceGroup, gradients: BatchGradients, *, step: int, steps: int, state: State
) -> Callable[..., Tensor]:
    """Return a function (image, sample) -> the gradient that the ensemble rule makes of a group at a step."""
    rule = gradients.assembly.ensemble

    def at(image: Tensor, sample: int = 0) -> Tensor:
        draws = StepDraws(gradients.streams, rule.stream, str(image.device), step, sample)
        return rule.gradient(image, GroupAt(group, gradients, step, steps, draws), sample, state)

    return at


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

    def features(self, image: Tensor) -> Mapping[str, Tensor]:
        with torch.no_grad(), captured(_module(self.model), self.names) as found:
            self.model(image)
        return {name: _full(one.detach()) for name, one in found.items()}

    def feature_gradients(self, image: Tensor, loss: Callable[[Tensor], Tensor]) -> Mapping[str, Tensor]:
        # The image requires a gradient, so that features do: parameters require none.
        with captured(_module(self.model), self.names) as found:
            logits = _full(self.model(image.detach().requires_grad_(True)))
        names = list(found)
        gradients = torch.autograd.grad(loss(logits).sum(), [found[name] for name in names])
        return {name: _full(one) for name, one in zip(names, gradients, strict=True)}


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
