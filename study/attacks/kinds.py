"""The kinds of components: a base class for each, with the methods that the attack loop calls.

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
    """What is averaged over all copies: their gradients, or their logits, from which one loss is taken. If one view of
    an attack averages logits, the attack does. It then needs an objective of logits, not of features."""

    @property
    def count(self) -> int:
        """Number of copies: the parameter `copies`, or 1."""
        return int(getattr(self, "copies", 1))

    @property
    def inner_gradients(self) -> int:
        """Number of calls of `given.gradient` for one copy."""
        return 0

    def make(self, image: Tensor, given: ViewContext) -> Tensor:
        """Return one copy of `image`, float (N, C, H, W), with the same shape, differentiable in `image`.

        The gradient passes through the view. If a method uses the gradient at the view instead, return
        `at_view(image, view)`.
        """
        raise NotImplementedError


def at_view(image: Tensor, view: Tensor) -> Tensor:
    """Return `view` (N, C, H, W) with the derivative of the identity: its gradient is used as that of `image`."""
    return image + (view - image).detach()


class Point(Component):
    """A rule for the places at which a step takes gradients, and for combining these gradients."""

    kind: ClassVar[str] = "point"

    def gradient(self, delta: Tensor, step: StepContext, inner: Inner, state: State) -> Tensor:
        """Return the gradient to use at perturbation `delta`, float (N, C, H, W).

        `inner(delta)` is the gradient by the point rules further inside; `step.gradient(image)` is that of the models.
        """
        raise NotImplementedError

    def calls(self, steps: int) -> tuple[int, int]:
        """Return how often the rule calls `inner` and `step.gradient` if it is called `steps` times itself."""
        return steps, 0


class Update(Component):
    """A change of the gradient before the step, such as momentum. Updates run in the order of their list."""

    kind: ClassVar[str] = "update"

    def update(self, gradient: Tensor, step: StepContext, state: State) -> Tensor:
        """Return the changed gradient, float (N, C, H, W)."""
        raise NotImplementedError

    def accumulated(self, state: State) -> tuple[Tensor, float] | None:
        """Return the accumulated update and its decay, which look-ahead rules use; None if nothing is accumulated."""
        return None


class Step(Component):
    """The step rule, which turns an updated gradient into a direction."""

    kind: ClassVar[str] = "step"

    @property
    def preparing_steps(self) -> int:
        """Number of initial steps that the rule takes back, because they only prepare the later steps."""
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
        """Return the loss (N,) of the weighted mean of the probabilities of K models.

        `logits` are (K, N, classes). `shares` are the weights, (K, 1), or (K, N) if each image has its own weights.
        """
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
        """Return further tensors (N, …) that `loss` needs. They are computed once for each batch and model."""
        return {}

    def loss(
        self, features: Mapping[str, Tensor], prepared: Mapping[str, Tensor], logits: Tensor, labels: Tensor, goal: Goal
    ) -> Tensor:
        """Return the loss (M,) of M images.

        `features` are the features (M, …) by layer. `prepared` has the rows (M, …) of these images in the tensors that
        `prepare` returned. `logits` are (M, classes), `labels` (M,).
        """
        raise NotImplementedError

    @property
    def preparing_gradients(self) -> int:
        """Number of gradients per image and model that `prepare` takes."""
        return 0

    @property
    def preparing_forwards(self) -> int:
        """Number of forward passes per image and model that `prepare` takes, without those of its gradients."""
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

    `origin` is the clean image (N, C, H, W). `labels` (N,) are the labels of the objective. `size` is the length of a
    step in pixel values, a number or (N, 1, 1, 1). `epsilon` is the budget's L-infinity norm, or None.
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
        """Index of the step, from 0."""
        ...

    @property
    def steps(self) -> int:
        """Number of steps."""
        ...

    @property
    def draws(self) -> Draws:
        """The random draws of the rule at this place."""
        ...

    @property
    def common(self) -> Draws:
        """Draws of the rule at this place that depend on the attack run and not on the image: their N is 1.

        Use them to choose models: if all images of all batches have the same order of models, a pass can hold a whole
        batch.
        """
        ...

    def joint(self, image: Tensor, sample: int = 0) -> Tensor:
        """Return the gradient of the fused loss of all models at `image`, float (N, C, H, W)."""
        ...

    def weighted(self, image: Tensor, weights: Tensor, sample: int = 0, among: Sequence[int] | None = None) -> Tensor:
        """Return the gradient of the fused loss of the models with the indices `among` (None: of all), at `image`.

        `weights` (models, N) replace the models' own weights: every image has its own weights. The call counts as one
        gradient of each of these models.
        """
        ...

    def of(self, model: int, image: Tensor, sample: int = 0) -> Tensor:
        """Return the gradient of the loss of the model with the index `model`, at `image`."""
        ...

    def logits(self, model: int, image: Tensor) -> Tensor:
        """Return the logits (N, classes) of one model at `image`, without views and without a gradient."""
        ...

    def project(self, delta: Tensor) -> Tensor:
        """Return `delta` projected onto the budget, and then onto pixel values 0..255."""
        ...


class EnsembleRule(Component):
    """How several source models form one gradient."""

    kind: ClassVar[str] = "ensemble"
    separate: ClassVar[bool] = False
    """Whether each model has its own points, updates and step; the steps are summed."""

    def loss(self, objective: AnyObjective, logits: Tensor, shares: Tensor, labels: Tensor, goal: Goal) -> Tensor:
        """Return the fused loss (N,) of logits (K, N, classes). By default, it is the weighted mean of the losses.

        `shares` are the weights: (K, 1), which sum to 1, or (K, N) if each image has its own weights.
        """
        assert isinstance(objective, Objective), "losses of features are averaged before"
        return (shares * objective.loss(logits, labels, goal)).sum(0)

    def gradient(self, image: Tensor, models: ModelsAt, sample: int, state: State) -> Tensor:
        """Return the gradient at `image`, float (N, C, H, W). By default, it is the gradient of the fused loss."""
        return models.joint(image, sample)

    def cost(self, sources: int) -> int:
        """Return the number of gradients of single models that one gradient of the rule takes."""
        return sources

    def forwards(self, sources: int) -> int:
        """Return the number of further forward passes (`models.logits`) that one gradient of the rule takes."""
        return 0


class Change(Component):
    """A change of the source models while an attack takes their gradients."""

    alone: ClassVar[bool] = False
    """Whether each pass holds one copy only, because the change differs from copy to copy for the whole network."""
    uses_weight_set: ClassVar[bool] = False
    """Whether every source model needs a set of weights (`weights: {set: …}`)."""

    @property
    def extra_gradients(self) -> int:
        """Number of further backward passes through a whole network that one gradient takes."""
        return 0

    @property
    def extra_forwards(self) -> int:
        """Number of further forward passes, without a backward pass, that one gradient takes."""
        return 0

    @property
    def preparing_gradients(self) -> int:
        """Number of gradients per image and model before the first step."""
        return 0

    @contextmanager
    def applied(self, models: Mapping[str, nn.Module], draws: PassDraws) -> Iterator[None]:
        """Change `models`, by name, within the `with` block, and undo the change. By default, `on` changes each model.

        Raises StudyError if the change does not apply to a model.
        """
        with ExitStack() as stack:
            for name, model in models.items():
                stack.enter_context(self.on(model, name, draws))
            yield

    def on(self, model: nn.Module, name: str, draws: PassDraws) -> AbstractContextManager[None]:
        """Change one model, called `name`, within the `with` block, and undo the change.

        Raises StudyError if the change does not apply to the model.
        """
        raise NotImplementedError


class BackwardChange(Change):
    """A change of the backward pass: of gradients inside a network."""

    kind: ClassVar[str] = "backward"


class ForwardChange(Change):
    """A change of the forward pass: of features inside a network."""

    kind: ClassVar[str] = "forward"


class Start(Component):
    """The first perturbation of an attack. An attack without a start begins at the clean image."""

    kind: ClassVar[str] = "start"
    at_first: ClassVar[bool] = False
    """Whether the attack starts at the finished images of its first stage. `perturbation` is then not called."""

    def perturbation(self, origin: Tensor, budget: BudgetOutline, rmsd: Tensor | None, draws: Draws) -> Tensor:
        """Return the first perturbation, float (N, C, H, W) like `origin`. The loop projects it onto the budget.

        `rmsd` (N,) holds each image's radius if the budget is an L2 norm or an RMSD.
        """
        raise NotImplementedError


Projecting = Callable[["Tensor"], "Tensor"]
"""A function from perturbations (N, C, H, W) to perturbations within the budget and the pixel box."""

_HALVINGS = 16


class BudgetRule(Component):
    """How far an attack may move an image: a measure of perturbations, and the projection onto a radius.

    A spec names the rule in `budget: {rule: …, length: …}`. The size of a finished 8-bit image, by `measure`, is at
    most the radius: changes of pixels are rounded down, and then as many are rounded up as the radius allows, in each
    image.
    """

    kind: ClassVar[str] = "budget"
    in_pixel_values: ClassVar[bool] = False
    """Whether the radius divided by the number of steps is a sensible step length. If not, a recipe needs step_size."""
    rounding: ClassVar[Literal["measured", "nearest", "ray", "ray or nearest"]] = "measured"
    """How images are rounded: `measured` works for every rule; the other values are for the project's own rules."""

    def measure(self, delta: Tensor, origin: Tensor) -> Tensor:
        """Return the size (N,) of perturbations `delta` of `origin`, both float (N, C, H, W).

        The size of an unchanged image is 0. The size does not fall if a perturbation is multiplied by a number above 1.
        """
        raise NotImplementedError

    def radius(self, length: float, values: int) -> float | None:
        """Return the radius, in the unit of `measure`, for a `length` in the spec and images of `values` pixel values.

        By default, the radius is the length. None if the rule projects without a radius.
        """
        return length

    def project(self, delta: Tensor, origin: Tensor, radius: Tensor) -> Tensor:
        """Return perturbations whose size is at most `radius` (N,). Perturbations within the radius stay as they are.

        By default, a perturbation is multiplied by a scale below 1, which bisection finds.
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
        """Return the function that projects perturbations of `origin` onto the budget, and then onto the box 0..255.

        `radius` (N,) is None if the budget has no single radius. An attack with several lengths has at most one step,
        which needs no projection.
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
        """Return the perturbation at each of `given.points`, float (N, C, H, W). The loop projects and rounds them."""
        raise NotImplementedError

    def cost(self, steps: int, sources: int, views: int) -> int:
        """Return the number of gradients of one image and one model that the program takes in `steps` steps.

        `views` is the number of gradients that one call of `given.gradient` takes, because of views.
        """
        raise NotImplementedError

    def forwards(self, steps: int, sources: int) -> int:
        """Return the number of further forward passes of one image and one model that the program takes."""
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
"""The base class of each kind, by the name of the kind in ids. A `FeatureObjective` is an `objective` too."""
