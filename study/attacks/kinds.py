"""The kinds of components: what each is asked, and what it answers.

Tensors of images are float32 (N, C, H, W), in pixel values 0..255. Every component acts on each image of a batch alone:
an image's result must not depend on its neighbours. Random numbers come from `draws`, which keys them by image.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import TYPE_CHECKING, ClassVar, Literal, Protocol

from study.attacks.component import BudgetOutline, Component
from study.attacks.contexts import (
    Draws,
    Goal,
    GradientAt,
    Inner,
    PassDraws,
    Pool,
    PreparingSource,
    ProgramContext,
    State,
    StepContext,
    StepDraws,
    ViewContext,
)

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = [
    "KINDS",
    "AnyObjective",
    "BackwardChange",
    "BudgetRule",
    "Change",
    "Draws",
    "EnsembleRule",
    "FeatureObjective",
    "ForwardChange",
    "Goal",
    "GradientAt",
    "Inner",
    "ModelsAt",
    "Objective",
    "PassDraws",
    "Penalty",
    "Point",
    "Pool",
    "PreparingSource",
    "Program",
    "ProgramContext",
    "Start",
    "State",
    "Step",
    "StepContext",
    "StepDraws",
    "Update",
    "View",
    "ViewContext",
    "at_view",
]


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

    def perturbation(self, origin: Tensor, budget: BudgetOutline, rmsd: Tensor | None, draws: Draws) -> Tensor:
        """Return the first perturbation, float (N, C, H, W) like `origin`; it is projected onto the budget afterwards.

        `rmsd` (N,) holds each image's radius if the budget is an L2 norm or an RMSD.
        """
        raise NotImplementedError


Projecting = Callable[["Tensor"], "Tensor"]
"""A perturbation (N, C, H, W) -> one within the budget and the pixel box."""

_HALVINGS = 16


class BudgetRule(Component):
    """How far an attack may move an image: a measure of perturbations, and the projection onto a radius of it.

    A spec names it in `budget: {rule: …, length: …}`. Finished images are 8-bit images that `measure` finds within the
    radius: of the pixels that lie between two values, as many are rounded up as it allows, image by image.
    """

    kind: ClassVar[str] = "budget"
    in_pixel_values: ClassVar[bool] = False
    """Whether the radius divided by the number of steps is a sensible length of a step; else a recipe has step_size."""
    rounding: ClassVar[Literal["measured", "nearest", "ray", "ray or nearest"]] = "measured"
    """How images are rounded: `measured` is right for every rule, the others are for the project's own."""

    def measure(self, delta: Tensor, origin: Tensor) -> Tensor:
        """Return the size (N,) of perturbations `delta` of `origin`, both float (N, C, H, W).

        It is 0 for no change, and does not fall where a perturbation is multiplied by a number above 1.
        """
        raise NotImplementedError

    def radius(self, length: float, values: int) -> float | None:
        """Return the radius of the budget for images of `values` numbers; None if it has none by image.

        By default it is the length in the spec.
        """
        return length

    def project(self, delta: Tensor, origin: Tensor, radius: Tensor) -> Tensor:
        """Return perturbations whose size is at most `radius` (N,). Those that are within it stay as they are.

        By default a perturbation is shortened along its ray, by halving the range of its scale.
        """
        import torch

        within = self.measure(delta, origin) <= radius
        low, high = torch.zeros_like(radius), torch.ones_like(radius)
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            fits = self.measure(middle[:, None, None, None] * delta, origin) <= radius
            low, high = torch.where(fits, middle, low), torch.where(fits, high, middle)
        return torch.where(within, 1, low)[:, None, None, None] * delta

    def projection(self, origin: Tensor, levels: Sequence[float | None], radius: Tensor | None) -> Projecting:
        """Return what projects perturbations of `origin` onto the budget, and then onto the pixel box 0..255.

        `radius` (N,) is None if the budget has no single radius: a sweep of one step needs no projection.
        """
        low, high = -origin, 255 - origin

        def onto(delta: Tensor) -> Tensor:
            found = delta if radius is None else self.project(delta, origin, radius)
            return found.clamp(low, high)

        return onto


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
    "budget": BudgetRule,
    "program": Program,
}
"""By the word that stands in ids. A loss of features is an objective too."""
