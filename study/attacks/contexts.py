"""The arguments of components: images to mix in, random numbers, and the context of a view, a step or a pass.

Tensors of images are float32 (N, C, H, W), in pixel values 0..255. A file that defines a component imports these names
from `study.attacks.kinds`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from study.attacks.component import Component

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from study.reproducibility.rng import Streams

Goal = Literal["untargeted", "targeted"]
State = dict[str, Any]
"""What a component remembers from step to step for one batch of images. It is empty at the first step."""


@dataclass(frozen=True, eq=False)
class Pool:
    """Images that components mix into other images: `pixels`, `uint8` (P, C, H, W), and their `labels` (P,)."""

    pixels: NDArray[np.uint8]
    labels: NDArray[np.int64]
    _held: dict[object, tuple[Tensor, ...]] = field(default_factory=dict, repr=False)
    """A cache: copies of the images on devices, and tables of the images whose label differs from given labels."""

    def taken(self, places: Tensor, dtype: torch.dtype) -> Tensor:
        """Return the images with the indices `places` (N,) as (N, C, H, W), on the device of `places`."""
        return self._on(places.device).index_select(0, places).to(dtype)

    def of_other_labels(self, labels: NDArray[np.int64], words: Tensor) -> Tensor:
        """Return, for each of `labels` (N,), the index of an image of the pool that has another label.

        The random integers `words` (N,) choose among all images with another label. If there are none, they choose
        among all images of the pool.
        """
        from study.reproducibility.words import below

        table, count = self._others(labels, words.device)
        return table.gather(1, below(words, count)[:, None])[:, 0]

    def _on(self, device: torch.device) -> Tensor:
        from study.devices.copies import uploaded

        if device not in self._held:
            self._held[device] = (uploaded(self.pixels, device),)
        return self._held[device][0]

    def _others(self, labels: NDArray[np.int64], device: torch.device) -> tuple[Tensor, Tensor]:
        """Return two tables for `labels` (N,): indices (N, P) of the pool's images, and numbers (N,).

        Each row of indices begins with the images that do not have the label of this row. The number in the same row
        says how many such images there are. If all images have the label, the number is P.
        """
        from study.devices.copies import uploaded

        key = (labels.tobytes(), device)
        if key not in self._held:
            other = self.labels != labels[:, None]
            other |= ~other.any(1, keepdims=True)
            table = np.argsort(~other, axis=1, kind="stable")
            self._held[key] = (uploaded(table, device), uploaded(other.sum(1), device))
        table_there, count = self._held[key]
        return table_there, count


class Draws(Protocol):
    """Keyed random numbers: they depend on the image, the attack run, the step and the copy, but not on the batch.

    `stream` is a name that distinguishes several draws of one component.
    """

    def uniform(self, shape: Sequence[int], stream: str = "") -> Tensor:
        """Return float32 (N, *shape), uniform over (-1, 1)."""
        ...

    def normal(self, shape: Sequence[int], stream: str = "") -> Tensor:
        """Return float32 (N, *shape), standard normal."""
        ...

    def integers(self, count: int, stream: str = "") -> NDArray[np.uint64]:
        """Return uniform 64-bit integers (N, count), on the host."""
        ...

    def words(self, count: int, stream: str = "") -> Tensor:
        """Return the random numbers of `integers` as int64 (N, count), with the same bits, on the device.

        The module `study.reproducibility.words` computes with such numbers.
        """
        ...


@dataclass(frozen=True)
class StepDraws:
    """The random numbers of one component at one step. Implements `Draws`.

    `number` is the index of a copy, point or update within the step.
    """

    streams: Streams
    name: str
    device: str
    step: int = 0
    number: int = 0

    def uniform(self, shape: Sequence[int], stream: str = "") -> Tensor:
        return self.streams.uniform(shape, self.device, self._purpose(stream), self.step, self.number)

    def normal(self, shape: Sequence[int], stream: str = "") -> Tensor:
        return self.streams.normal(shape, self.device, self._purpose(stream), self.step, self.number)

    def integers(self, count: int, stream: str = "") -> NDArray[np.uint64]:
        return self.streams.integers(count, self._purpose(stream), self.step, self.number)

    def words(self, count: int, stream: str = "") -> Tensor:
        return self.streams.words(count, self.device, self._purpose(stream), self.step, self.number)

    def _purpose(self, stream: str) -> str:
        return f"{self.name}.{stream}" if stream else self.name


@dataclass(frozen=True)
class ViewContext:
    """What a view gets in addition to the image.

    Attributes:
        copy: Index of the copy, from 0, among the copies that this view makes.
        draws: Random numbers of the view for this copy.
        true: The true labels (N,).
        wanted: The labels (N,) of the objective.
        pool: The images to mix in, if a component declares `others`.
        origin: The clean images (N, C, H, W).
        step: Index of the step, from 0.
        steps: Number of steps.
        epsilon: The budget's L-infinity norm; None for another budget.
        gradient: A function that returns the gradient of the loss at a view (N, C, H, W). Later views of the attack are
            not applied. A view that calls the function must declare the number of calls in `inner_gradients`.
        common: What `View.of_all_copies` returned for this image.
    """

    copy: int
    draws: Draws
    true: NDArray[np.int64]
    wanted: NDArray[np.int64]
    pool: Pool | None
    origin: Tensor
    step: int
    steps: int
    epsilon: float | None
    gradient: Callable[[Tensor], Tensor]
    common: Tensor | None = None


class GradientAt(Protocol):
    """A function that returns the gradient of the loss at an image, over all views and all source models of a group."""

    def __call__(self, image: Tensor, sample: int = 0, moved: Tensor | None = None) -> Tensor:
        """Return the gradient at `image`, float (N, C, H, W).

        `sample` is the index of this gradient among the gradients of the step. Views draw new random numbers for each
        `sample`. `moved` is `image` minus the clean image, if the caller knows this difference exactly.
        """
        ...


def _no_losses() -> Tensor:
    raise LookupError("the loss is not known: no gradient has been computed yet")


@dataclass
class StepContext:
    """What a component gets at one step, for one group of source models.

    Attributes:
        step: Index of the step, from 0.
        steps: Number of steps.
        origin: The clean images (N, C, H, W).
        delta: The perturbation (N, C, H, W) before the step.
        size: The length of the step in pixel values, a number or (N, 1, 1, 1).
        epsilon: The budget's L-infinity norm; None for another budget.
        gradient: A function that returns the gradient of the source models at an image.
        streams: The random numbers of the attack run; components use `draws` instead.
        goal: Whether the attack is untargeted or targeted.
        project: A function that projects perturbations onto the budget, and then onto pixel values 0..255.
        momentum: The accumulated update of the step before; None at the first step, and without momentum.
        decay: The factor of `momentum`.
        first: The finished images of the attack's first stage; None without a first stage.
        losses: A function that returns the loss (N,) at the image of the last gradient, as a mean over the views.
        pool: The images to mix in, if a component declares `others`.
    """

    step: int
    steps: int
    origin: Tensor
    delta: Tensor
    size: float | Tensor
    epsilon: float | None
    gradient: GradientAt
    streams: Streams
    goal: Goal
    project: Callable[[Tensor], Tensor]
    momentum: Tensor | None = None
    decay: float = 0.0
    first: Tensor | None = None
    losses: Callable[[], Tensor] = _no_losses
    pool: Pool | None = None

    def draws(self, component: Component, number: int = 0) -> Draws:
        """Return the random draws of `component` at this step. `number` distinguishes several draws at one step."""
        return StepDraws(self.streams, component.stream, str(self.origin.device), self.step, number)


Inner = Callable[["Tensor"], "Tensor"]
"""A function from a perturbation to the gradient at this perturbation, both (N, C, H, W).

The gradient is computed by the point rules that follow in the attack's list.
"""


class PreparingSource(Protocol):
    """What an objective of features gets before the first step: a source model and the clean images of a batch."""

    origin: Tensor
    labels: Tensor
    goal: Goal
    true: Tensor
    """The true labels (N,). In contrast, `labels` are the labels of the objective."""
    first: Tensor | None
    """The finished images (N, C, H, W) of the attack's first stage, if it has one."""
    path: Sequence[Tensor]
    """The images (N, C, H, W) of the first stage at its checkpoints, and then its finished images.

    The sequence is empty without a first stage.
    """
    pool: Pool | None
    """The images to mix in, if a component declares `others`."""
    wanted: NDArray[np.int64]
    """The same labels as `labels`, as an array on the host.

    To read a tensor on a GPU, the host would have to wait for the GPU.
    """

    @property
    def draws(self) -> Draws:
        """The random draws of the objective. They differ from model to model."""
        ...

    def features(self, image: Tensor) -> Mapping[str, Tensor]:
        """Return the features (N, …) of `image` by layer, without gradient."""
        ...

    def forward(self, image: Tensor) -> tuple[Mapping[str, Tensor], Tensor]:
        """Return the features (N, …) of `image` by layer and its logits (N, classes), without gradient."""
        ...

    def feature_gradients(self, image: Tensor, loss: Callable[[Tensor], Tensor]) -> Mapping[str, Tensor]:
        """Return the gradients (N, …) of the summed `loss(logits)` (N,) with respect to the features, by layer."""
        ...

    def image_gradient(self, image: Tensor, loss: Callable[[Tensor], Tensor]) -> Tensor:
        """Return the gradient (N, C, H, W) of the summed `loss(logits)` (N,) with respect to the image."""
        ...


class PassDraws(Protocol):
    """Random draws for each row of the pass that is running. A pass may hold several copies of each image."""

    def uniform(self, component: Component, shape: Sequence[int], stream: str = "") -> Tensor:
        """Return float32 (rows, *shape), uniform over (-1, 1)."""
        ...

    def normal(self, component: Component, shape: Sequence[int], stream: str = "") -> Tensor:
        """Return float32 (rows, *shape), standard normal."""
        ...

    def integers(self, component: Component, count: int, stream: str = "") -> NDArray[np.uint64]:
        """Return uniform 64-bit integers (rows, count), on the host."""
        ...

    def words(self, component: Component, count: int, stream: str = "") -> Tensor:
        """Return the random numbers of `integers` as int64 (rows, count), with the same bits, on the device.

        The module `study.reproducibility.words` computes with such numbers.
        """
        ...

    def common(self, component: Component, *, fixed: bool = False) -> Draws:
        """Return draws that depend on the attack run, the step and the copy, but not on the image. Their N is 1.

        All images of an attack run get the same numbers, in all batches. Use these draws for weights that are drawn for
        a step. With `fixed`, the draws also do not depend on the step and the copy. Use `fixed` for values that are
        drawn once for the whole attack.
        """
        ...

    def of_images(self, values: Tensor) -> Tensor:
        """Return a row of `values` (N, …) for every image in the pass: the row that belongs to the image."""
        ...

    @property
    def origin(self) -> Tensor:
        """The clean images of the batch, float (N, C, H, W).

        `of_images(origin)` has one clean image for each row of the pass.
        """
        ...

    @property
    def batch(self) -> int:
        """Index of the batch, from 0. Values that a component caches for one batch are not valid for the next batch."""
        ...

    @property
    def step(self) -> int:
        """Index of the step, from 0; -1 in the preparing pass of an objective of features."""
        ...

    @property
    def copy(self) -> int:
        """Index of the first copy in the pass, from 0, among all copies of the step.

        An attack without views that takes one gradient per step has one copy per step.
        """
        ...

    @property
    def pool(self) -> Pool | None:
        """The images to mix in, if a component declares `others`."""
        ...


@dataclass
class ProgramContext:
    """What a program gets: one batch of clean images, and the functions and values that the attack loop uses.

    `points` are the pairs (number of steps, length of the budget) at which targets see the images. `size` is the length
    of a step according to the recipe. `epsilon` is the budget's L-infinity norm, or None.
    """

    origin: Tensor
    labels: Tensor
    goal: Goal
    steps: int
    points: Sequence[tuple[int, float | None]]
    size: float | Tensor
    epsilon: float | None
    gradient: Callable[..., Tensor]
    """A function (image, step=0, sample=0, models=None, labels=None) -> gradient (N, C, H, W).

    `models` are the indices of the source models, which then have equal weights; None means all models with their own
    weights. `labels` (N,) replace the labels of the objective. They do not change tensors that an objective of features
    has prepared.
    """
    forward: Callable[[Tensor, int], Tensor]
    """A function (image, index of a source model) -> logits (N, classes), without gradient."""
    project: Callable[[Tensor], Tensor]
    streams: Streams
    models: int = 1
    loop: Callable[[Tensor | None], list[Tensor]] = field(default=lambda start: [])
    """A function that runs the loop with the attack's other components, and returns the perturbation at each point.

    The argument is the perturbation at which the loop starts; None stands for the attack's own start.
    """

    def draws(self, component: Component, step: int = 0, number: int = 0) -> Draws:
        """Return the random draws of `component` at a step. `number` distinguishes several draws at one step."""
        return StepDraws(self.streams, component.stream, str(self.origin.device), step, number)
