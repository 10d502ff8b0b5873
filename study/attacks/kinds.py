"""The kinds of components: what each is asked, what it is given, and what it answers.

Tensors of images are float32 (N, C, H, W), in pixel values 0..255. Every component acts on each image of a batch alone:
an image's result must not depend on its neighbours. Random numbers come from `draws`, which keys them by image.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from study.attacks.budget_spec import Budget
from study.attacks.component import Component

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from study.reproducibility.rng import Streams

Goal = Literal["untargeted", "targeted"]
State = dict[str, Any]
"""What a component remembers from step to step, for one batch of images; empty at the first step."""


@dataclass(frozen=True, eq=False)
class Pool:
    """Images that components mix in: `uint8` (P, C, H, W), and their labels (P,)."""

    pixels: NDArray[np.uint8]
    labels: NDArray[np.int64]
    _held: dict[object, tuple[Tensor, ...]] = field(default_factory=dict, repr=False)
    """Copies on devices, and what images of some labels may be mixed with: made once."""

    def taken(self, places: Tensor, dtype: torch.dtype) -> Tensor:
        """Return the images at `places` (N,), on their device: (N, C, H, W)."""
        return self._on(places.device).index_select(0, places).to(dtype)

    def of_other_labels(self, labels: NDArray[np.int64], words: Tensor) -> Tensor:
        """Return the place (N,) of an image of another label for each of `labels` (N,), chosen by `words` (N,).

        If there is none, it is any image.
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
        """For each label the places of images with other labels (N, P), and their number (N,)."""
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
    """Keyed random numbers: they depend on the image, the attack run, the step and the copy, never on the batch.

    `stream` tells several draws of one component apart.
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
        """Return the bits of `integers` as int64 (N, count), on the device: see `study.reproducibility.words`."""
        ...


@dataclass(frozen=True)
class StepDraws:
    """Draws of one component at one step and one number of a copy, point or update within it."""

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
    """What a view is given beside the image: the number of the copy (from 0) among its own copies, draws, labels.

    `true` and `wanted` (N,) are the true labels and those of the objective. `origin` is the clean image; `step` counts
    from 0; `epsilon` is the budget's L-infinity norm, if it has one. `gradient(view)` is the gradient of the loss at a
    view (N, C, H, W), without the views that follow; a view that asks for it says so in `inner_gradients`.
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


class View(Component):
    """A transformed copy of the image. An attack averages its gradients over all copies of all views."""

    kind: ClassVar[str] = "view"
    averages: ClassVar[Literal["gradients", "logits"]] = "gradients"
    """Whether gradients are averaged over all copies, or logits, of which the loss is taken. One view with logits
    decides for all views of an attack. Only objectives of logits can average them."""

    @property
    def count(self) -> int:
        """Number of copies: the parameter `copies`, or 1."""
        return int(getattr(self, "copies", 1))

    @property
    def inner_gradients(self) -> int:
        """How often one copy asks `given.gradient`."""
        return 0

    def make(self, image: Tensor, given: ViewContext) -> Tensor:
        """Return one copy of `image`, float (N, C, H, W), with the same shape, differentiable in `image`.

        The gradient passes through the view. Where a method takes it at the view, return `at_view(image, view)`.
        """
        raise NotImplementedError


def at_view(image: Tensor, view: Tensor) -> Tensor:
    """Return `view` (N, C, H, W) with the gradient of the identity: a gradient there counts as one at `image`."""
    return image + (view - image).detach()


class GradientAt(Protocol):
    """The gradient of the loss at an image, over all views and source models of a group."""

    def __call__(self, image: Tensor, sample: int = 0, moved: Tensor | None = None) -> Tensor:
        """Return the gradient at `image`, float (N, C, H, W). `sample` numbers the places of a step: views draw anew.

        `moved` is `image` minus the clean image, if the caller has it exactly.
        """
        ...


def _no_losses() -> Tensor:
    raise LookupError("no gradient was asked for yet")


@dataclass
class StepContext:
    """One step of one group of source models.

    `origin` is the clean image, `delta` the perturbation before the step; `size` is the length of the step in pixel
    values, a number or (N, 1, 1, 1); `epsilon` is the budget's L-infinity norm, if it has one; `momentum` is the
    accumulated update of the last step, None at the first and without momentum, and `decay` its factor. `first` has the
    finished images of the attack's first stage, if it has one. `losses()` is the loss (N,) at the last gradient that
    was asked for, as a mean over its views. `pool` has the images to mix in, if a component declares `others`.
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
        """The draws of `component` at this step; `number` tells several draws at one step apart."""
        return StepDraws(self.streams, component.stream, str(self.origin.device), self.step, number)


Inner = Callable[["Tensor"], "Tensor"]
"""A perturbation (N, C, H, W) -> the gradient there, by the point rules that stand further inside."""


class Point(Component):
    """A rule where gradients are taken within a step, and how they are combined."""

    kind: ClassVar[str] = "point"

    def gradient(self, delta: Tensor, step: StepContext, inner: Inner, state: State) -> Tensor:
        """Return the gradient to use at perturbation `delta`, float (N, C, H, W).

        `inner(delta)` asks the rules further inside; `step.gradient(image)` asks the models alone.
        """
        raise NotImplementedError

    def calls(self, steps: int) -> tuple[int, int]:
        """Return how often `inner` and `step.gradient` are called in `steps` steps."""
        return steps, 0


class Update(Component):
    """A change of the gradient before the step: a kernel, or momentum. Updates run in the order of their list."""

    kind: ClassVar[str] = "update"

    def update(self, gradient: Tensor, step: StepContext, state: State) -> Tensor:
        """Return the changed gradient, float (N, C, H, W)."""
        raise NotImplementedError

    def accumulated(self, state: State) -> tuple[Tensor, float] | None:
        """Return the accumulated update and its decay, which look-ahead rules use; None if there is none."""
        return None


class Step(Component):
    """The step rule: from an updated gradient to a direction."""

    kind: ClassVar[str] = "step"

    @property
    def preparing_steps(self) -> int:
        """Number of first steps that the rule takes back, because they only prepare the others."""
        return 0

    def direction(self, gradient: Tensor, step: StepContext, state: State) -> Tensor:
        """Return the direction of a step of length 1 pixel value, float (N, C, H, W)."""
        raise NotImplementedError


class Objective(Component):
    """A loss of logits, to be maximised."""

    kind: ClassVar[str] = "objective"

    def loss(self, logits: Tensor, labels: Tensor, goal: Goal) -> Tensor:
        """Return the loss (..., N) for logits (..., N, classes) and labels (N,).

        Labels are the true labels for an untargeted goal, the target labels for a targeted goal.
        """
        raise NotImplementedError

    def loss_of_mean(self, logits: Tensor, shares: Tensor, labels: Tensor, goal: Goal) -> Tensor:
        """Return the loss (N,) of the mean probabilities of K models, logits (K, N, classes), with `shares` (K, 1)."""
        if len(logits) == 1:
            return self.loss(logits[0], labels, goal)
        mixed = (logits.log_softmax(-1) + shares[..., None].log()).logsumexp(0)
        return self.loss(mixed, labels, goal)


class FeatureObjective(Component):
    """A loss of features at named layers, to be maximised; an ensemble averages it over its models."""

    kind: ClassVar[str] = "objective"
    together: ClassVar[bool] = False
    """Whether `loss` sees all copies of an image at once, and returns one loss (M,) for all of them. It then gets
    features (copies, M, …) and logits (copies, M, classes), in the order of the views."""

    def layers(self, network: nn.Module) -> Sequence[str]:
        """Return the names of the layers whose outputs `loss` reads. Raises StudyError if the network has none."""
        raise NotImplementedError

    def prepare(self, source: PreparingSource) -> Mapping[str, Tensor]:
        """Return what `loss` needs beside the features: tensors (N, …), computed once for each batch and model."""
        return {}

    def loss(
        self, features: Mapping[str, Tensor], prepared: Mapping[str, Tensor], logits: Tensor, labels: Tensor, goal: Goal
    ) -> Tensor:
        """Return the loss (M,) for features by layer (M, …), what `prepare` returned, row by row, and logits."""
        raise NotImplementedError

    @property
    def preparing_gradients(self) -> int:
        """Number of gradients per image and model that `prepare` takes."""
        return 0

    @property
    def preparing_forwards(self) -> int:
        """Number of forward passes per image and model that `prepare` takes, beside those of its gradients."""
        return 0


class PreparingSource(Protocol):
    """A source model and the clean images of a batch, for a preparing pass."""

    origin: Tensor
    labels: Tensor
    goal: Goal
    true: Tensor
    """The true labels (N,); `labels` are those of the objective."""
    first: Tensor | None
    """The finished images (N, C, H, W) of the attack's first stage, if it has one."""
    path: Sequence[Tensor]
    """The first stage's images (N, C, H, W) at its checkpoints, and the finished ones."""
    pool: Pool | None
    """The other images, if a component declares `others`."""
    wanted: NDArray[np.int64]
    """`labels`, on the host: reading a tensor of a GPU would wait for it."""

    @property
    def draws(self) -> Draws:
        """Draws of the objective; every model has its own."""
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


class Penalty(Component):
    """A term of the objective that depends on the perturbation alone, given by its gradient."""

    kind: ClassVar[str] = "penalty"

    def gradient(self, delta: Tensor) -> Tensor:
        """Return the gradient of the term at perturbation `delta`, both float (N, C, H, W)."""
        raise NotImplementedError


AnyObjective = Objective | FeatureObjective


class ModelsAt(Protocol):
    """The gradients and logits that an ensemble rule may ask for, at one place of one step.

    `origin` is the clean image (N, C, H, W), `labels` (N,) are those of the objective, `size` is the length of a step
    in pixel values, a number or (N, 1, 1, 1), and `epsilon` the budget's L-infinity norm, if it has one.
    """

    @property
    def origin(self) -> Tensor: ...
    @property
    def labels(self) -> Tensor: ...
    @property
    def goal(self) -> Goal: ...
    @property
    def objective(self) -> AnyObjective: ...
    @property
    def size(self) -> float | Tensor: ...
    @property
    def epsilon(self) -> float | None: ...

    @property
    def count(self) -> int:
        """Number of models."""
        ...

    @property
    def weights(self) -> Sequence[float]:
        """The models' weights, which sum to 1."""
        ...

    @property
    def step(self) -> int:
        """Number of the step, from 0."""
        ...

    @property
    def steps(self) -> int:
        """Number of all steps."""
        ...

    @property
    def draws(self) -> Draws:
        """Draws of the rule at this place."""
        ...

    @property
    def common(self) -> Draws:
        """Draws of the rule at this place that depend on the attack run and not on the image: their N is 1.

        For choices of models: one order for all images, in all batches, lets a pass hold a whole batch.
        """
        ...

    def joint(self, image: Tensor, sample: int = 0) -> Tensor:
        """Return the gradient of the fused loss of all models at `image`, float (N, C, H, W)."""
        ...

    def weighted(self, image: Tensor, weights: Tensor, sample: int = 0, among: Sequence[int] | None = None) -> Tensor:
        """Return the gradient of the fused loss of the models `among` (None: all), by their numbers, at `image`.

        `weights` (models, N) take the place of the models' own weights: every image has its own. It counts as one
        gradient of each of these models.
        """
        ...

    def of(self, model: int, image: Tensor, sample: int = 0) -> Tensor:
        """Return the gradient of the loss of one model, by its number, at `image`."""
        ...

    def logits(self, model: int, image: Tensor) -> Tensor:
        """Return the logits (N, classes) of one model at `image`, without views and without a gradient."""
        ...

    def project(self, delta: Tensor) -> Tensor:
        """Return the perturbation nearest to `delta` that keeps the budget and pixel values in 0..255."""
        ...


class EnsembleRule(Component):
    """How several source models form one gradient."""

    kind: ClassVar[str] = "ensemble"
    separate: ClassVar[bool] = False
    """Whether each model has its own points, updates and step; the steps are summed."""

    def loss(self, objective: AnyObjective, logits: Tensor, shares: Tensor, labels: Tensor, goal: Goal) -> Tensor:
        """Return the fused loss (N,) of logits (K, N, classes); `shares` (K, 1) sum to 1. By default the mean loss."""
        assert isinstance(objective, Objective), "losses of features are averaged before"
        return (shares * objective.loss(logits, labels, goal)).sum(0)

    def gradient(self, image: Tensor, models: ModelsAt, sample: int, state: State) -> Tensor:
        """Return the gradient at `image`, float (N, C, H, W). By default that of the fused loss."""
        return models.joint(image, sample)

    def cost(self, sources: int) -> int:
        """Return the number of gradients of single models that one gradient takes."""
        return sources

    def forwards(self, sources: int) -> int:
        """Return the number of forward passes (`models.logits`) that one gradient takes beside."""
        return 0


class PassDraws(Protocol):
    """Draws for the rows of the pass that runs, which may hold several copies of each image."""

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
        """Return the bits of `integers` as int64 (rows, count), on the device."""
        ...

    def common(self, component: Component, *, fixed: bool = False) -> Draws:
        """Draws that depend on the attack run, the step and the copy, and not on the image: their N is 1.

        All images of an attack run get the same numbers, in all batches: for weights that are drawn for a step.
        `fixed` draws are the same at every step and copy too: for what is drawn once for the whole attack.
        """
        ...

    def of_images(self, values: Tensor) -> Tensor:
        """Return, for every row of the pass, the row of `values` (N, …) that belongs to its image."""
        ...

    @property
    def origin(self) -> Tensor:
        """The clean images of the batch, float (N, C, H, W).

        `of_images(origin)` gives the clean image of every row of the pass.
        """
        ...

    @property
    def batch(self) -> int:
        """Number of the batch, from 0: what a change has computed for one batch does not hold for the next."""
        ...

    @property
    def step(self) -> int:
        """Number of the step, from 0; -1 in the preparing pass of an objective of features."""
        ...

    @property
    def copy(self) -> int:
        """Number of the first copy in the pass, from 0: an attack without views and neighbours has one a step."""
        ...

    @property
    def pool(self) -> Pool | None:
        """The images to mix in, if a component declares `others`."""
        ...


class Change(Component):
    """A change of the source models while an attack takes their gradients."""

    alone: ClassVar[bool] = False
    """Whether each pass holds one copy only, because the change differs from copy to copy for the whole network."""
    uses_weight_set: ClassVar[bool] = False
    """Whether every source model needs a set of weights (`weights: {set: …}`)."""

    @property
    def extra_gradients(self) -> int:
        """Number of backward passes through a whole network that one gradient takes beside its own."""
        return 0

    @property
    def extra_forwards(self) -> int:
        """Number of forward passes without a gradient that one gradient takes beside."""
        return 0

    @property
    def preparing_gradients(self) -> int:
        """Number of gradients per image and model before the first step."""
        return 0

    @contextmanager
    def applied(self, models: Mapping[str, nn.Module], draws: PassDraws) -> Iterator[None]:
        """Change `models`, by name, within the `with` block, and leave nothing behind. By default each by `on`.

        Raises StudyError if the change does not apply to a model.
        """
        with ExitStack() as stack:
            for name, model in models.items():
                stack.enter_context(self.on(model, name, draws))
            yield

    def on(self, model: nn.Module, name: str, draws: PassDraws) -> AbstractContextManager[None]:
        """Change one model, called `name`, within the `with` block, and leave nothing behind.

        Raises StudyError if the change does not apply to it.
        """
        raise NotImplementedError


class BackwardChange(Change):
    """A change of the backward pass: of gradients inside a network."""

    kind: ClassVar[str] = "backward"


class ForwardChange(Change):
    """A change of the forward pass: of features inside a network."""

    kind: ClassVar[str] = "forward"


class Start(Component):
    """Where an attack starts; without one it starts at the clean image."""

    kind: ClassVar[str] = "start"
    at_first: ClassVar[bool] = False
    """Whether it is the finished images of the first stage; then `perturbation` is not asked."""

    def perturbation(self, origin: Tensor, budget: Budget, rmsd: Tensor | None, draws: Draws) -> Tensor:
        """Return the first perturbation, float (N, C, H, W) like `origin`; it is projected onto the budget afterwards.

        `rmsd` (N,) holds each image's radius if the budget is an L2 norm or an RMSD.
        """
        raise NotImplementedError


@dataclass
class ProgramContext:
    """What a program is given: one batch of clean images, and everything that the loop itself uses.

    `points` are the (steps, budget) at which targets see the images; `size` is the recipe's length of a step.
    """

    origin: Tensor
    labels: Tensor
    goal: Goal
    steps: int
    points: Sequence[tuple[int, float | None]]
    size: float | Tensor
    epsilon: float | None
    gradient: Callable[..., Tensor]
    """(image, step=0, sample=0, models=None, labels=None) -> gradient (N, C, H, W).

    `models` are numbers of source models. `labels` (N,) take the place of the objective's labels; an objective of
    features keeps what it has prepared for its own.
    """
    forward: Callable[[Tensor, int], Tensor]
    """(image, number of a source model) -> logits (N, classes), without gradient."""
    project: Callable[[Tensor], Tensor]
    streams: Streams
    models: int = 1
    loop: Callable[[Tensor | None], list[Tensor]] = field(default=lambda start: [])
    """Run the attack's other components from a perturbation (None: their own start); return one delta a point."""

    def draws(self, component: Component, step: int = 0, number: int = 0) -> Draws:
        """The draws of `component` at a step; `number` tells several draws at one step apart."""
        return StepDraws(self.streams, component.stream, str(self.origin.device), step, number)


class Program(Component):
    """A whole attack that the loop cannot express: it decides itself which gradients to ask for."""

    kind: ClassVar[str] = "program"

    def run(self, given: ProgramContext) -> Sequence[Tensor]:
        """Return the perturbation at each of `given.points`, float (N, C, H, W); they are projected and rounded."""
        raise NotImplementedError

    def cost(self, steps: int, sources: int, views: int) -> int:
        """Return the number of gradients of one image and one model that the program takes in `steps` steps."""
        raise NotImplementedError

    def forwards(self, steps: int, sources: int) -> int:
        """Return the number of forward passes of one image and one model that it takes in `steps` steps beside."""
        return 0


KINDS: Mapping[str, type[Component]] = {
    "view": View,
    "point": Point,
    "update": Update,
    "step": Step,
    "objective": Objective,
    "penalty": Penalty,
    "ensemble": EnsembleRule,
    "backward": BackwardChange,
    "forward": ForwardChange,
    "start": Start,
    "program": Program,
}
"""By the word that stands in ids. A loss of features is an objective too."""
