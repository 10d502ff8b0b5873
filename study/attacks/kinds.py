"""The kinds of components: a base class for each kind, with the methods that the attack loop calls.

Tensors of images are float32 (N, C, H, W), in pixel values 0..255. Every component acts on each image of a batch alone:
the result for an image must not depend on the other images. Random numbers come from `draws`, which keys them by image.
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
    """A transformation that makes one or several copies of an image.

    An attack averages its gradients over all copies of all its views.
    """

    kind: ClassVar[str] = "view"
    averages: ClassVar[Literal["gradients", "logits"]] = "gradients"
    """What is averaged over all copies: their gradients, or their logits, from which one loss is computed.

    If one view averages logits, the whole attack averages logits. It then needs an objective that reads logits, not
    features.
    """

    @property
    def count(self) -> int:
        """Number of copies: the value of the parameter `copies`, or 1 if the view has no such parameter."""
        return int(getattr(self, "copies", 1))

    @property
    def inner_gradients(self) -> int:
        """Number of calls of `given.gradient` that `make` needs for one copy."""
        return 0

    def of_all_copies(self, image: Tensor) -> Tensor | None:
        """Return what `make` needs for every copy of `image` (N, C, H, W), without a gradient, or None.

        It is computed once for all copies of one `image`; a later view of the attack gets each copy of an earlier view
        as an image of its own. `make` finds it in `given.common`.
        """
        return None

    def make(self, image: Tensor, given: ViewContext) -> Tensor:
        """Return one copy of `image`, float (N, C, H, W), with the same shape, differentiable in `image`.

        By default, the gradient at the copy is propagated back through the transformation. A method that uses the
        gradient at the copy unchanged returns `at_view(image, view)`.
        """
        raise NotImplementedError


def at_view(image: Tensor, view: Tensor) -> Tensor:
    """Return the values of `view` (N, C, H, W) with the derivative of the identity in `image`.

    The gradient at `view` is thus used unchanged as the gradient at `image`.
    """
    return image + (view - image).detach()


class Point(Component):
    """A rule that chooses the images at which a step takes gradients, and combines these gradients."""

    kind: ClassVar[str] = "point"

    def gradient(self, delta: Tensor, step: StepContext, inner: Inner, state: State) -> Tensor:
        """Return the gradient to use at perturbation `delta`, float (N, C, H, W).

        `inner(delta)` returns the gradient that the point rules after this one in the attack's list compute.
        `step.gradient(image)` returns the gradient of the source models.
        """
        raise NotImplementedError

    def calls(self, steps: int) -> tuple[int, int]:
        """Return how often the rule calls `inner` and `step.gradient` if the rule itself is called `steps` times."""
        return steps, 0


class Update(Component):
    """A change of the gradient before the step, such as momentum. Updates run in the order of their list."""

    kind: ClassVar[str] = "update"

    def update(self, gradient: Tensor, step: StepContext, state: State) -> Tensor:
        """Return the changed gradient, float (N, C, H, W)."""
        raise NotImplementedError

    def accumulated(self, state: State) -> tuple[Tensor, float] | None:
        """Return the accumulated update (N, C, H, W) and its decay, for look-ahead rules; None if there is none."""
        return None


class Step(Component):
    """The step rule of an attack, which turns the updated gradient into the direction of the step."""

    kind: ClassVar[str] = "step"

    @property
    def preparing_steps(self) -> int:
        """Number of initial steps that the rule undoes, because they only prepare the later steps."""
        return 0

    def direction(self, gradient: Tensor, step: StepContext, state: State) -> Tensor:
        """Return the direction of the step, float (N, C, H, W). The loop multiplies it by the length of the step."""
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
    """A loss of features at named layers, to be maximised. An ensemble of models averages the losses of its models."""

    kind: ClassVar[str] = "objective"
    together: ClassVar[bool] = False
    """Whether `loss` gets all copies of M images at once, and returns one loss (M,) for all copies.

    If so, `loss` gets features (copies, M, …) and logits (copies, M, classes), with the copies in the order of the
    views.
    """

    def layers(self, network: nn.Module) -> Sequence[str]:
        """Return the names of the layers whose outputs `loss` reads. Raises StudyError if the network has none."""
        raise NotImplementedError

    def prepare(self, source: PreparingSource) -> Mapping[str, Tensor]:
        """Return further tensors (N, …) that `loss` needs, by name. They are computed once for each batch and model."""
        return {}

    def loss(
        self, features: Mapping[str, Tensor], prepared: Mapping[str, Tensor], logits: Tensor, labels: Tensor, goal: Goal
    ) -> Tensor:
        """Return the loss (M,) of M images.

        `features` are the features (M, …) of these images by layer. `prepared` are the tensors that `prepare` returned,
        with only the rows (M, …) of these images. `logits` are (M, classes), `labels` (M,).
        """
        raise NotImplementedError

    @property
    def preparing_gradients(self) -> int:
        """Number of gradients per image and model that `prepare` takes."""
        return 0

    @property
    def preparing_forwards(self) -> int:
        """Number of forward passes per image and model that `prepare` takes, besides those for its gradients."""
        return 0


class Penalty(Component):
    """A term of the objective that depends only on the perturbation. A subclass computes the gradient of the term."""

    kind: ClassVar[str] = "penalty"

    def gradient(self, delta: Tensor) -> Tensor:
        """Return the gradient of the term at perturbation `delta`, both float (N, C, H, W)."""
        raise NotImplementedError


AnyObjective = Objective | FeatureObjective


class ModelsAt(Protocol):
    """What an ensemble rule gets at one step: the gradients and logits of the source models at an image.

    `origin` is the clean image (N, C, H, W). `labels` (N,) are the labels of the objective. `size` is the length of a
    step in pixel values, a number or (N, 1, 1, 1). `epsilon` is the budget's L-infinity norm, or None. `sample` is the
    index of a gradient among the gradients of the step: views draw new random numbers for each `sample`.
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
        """The random draws of the rule for this gradient."""
        ...

    @property
    def common(self) -> Draws:
        """Draws of the rule that depend on the attack run, but not on the image: their N is 1.

        Use them to choose models. All images of all batches then have the same order of models, so a pass can hold a
        whole batch.
        """
        ...

    def joint(self, image: Tensor, sample: int = 0) -> Tensor:
        """Return the gradient of the fused loss of all models at `image`, float (N, C, H, W)."""
        ...

    def weighted(self, image: Tensor, weights: Tensor, sample: int = 0, among: Sequence[int] | None = None) -> Tensor:
        """Return the gradient of the fused loss of some models at `image`, float (N, C, H, W).

        `among` are the indices of these models; None means all models. `weights` (models, N) replace the models' own
        weights: every image has its own weights. The call counts as one gradient of each of these models.
        """
        ...

    def of(self, model: int, image: Tensor, sample: int = 0) -> Tensor:
        """Return the gradient of the loss of the model with the index `model` at `image`, float (N, C, H, W)."""
        ...

    def logits(self, model: int, image: Tensor) -> Tensor:
        """Return the logits (N, classes) of the model with the index `model` at `image`, without views and gradient."""
        ...

    def project(self, delta: Tensor) -> Tensor:
        """Return `delta` projected onto the budget, and then onto pixel values 0..255."""
        ...


class EnsembleRule(Component):
    """A rule that combines several source models into one gradient."""

    kind: ClassVar[str] = "ensemble"
    separate: ClassVar[bool] = False
    """Whether each model has its own points, updates and step. The steps of all models are then summed."""

    def loss(self, objective: AnyObjective, logits: Tensor, shares: Tensor, labels: Tensor, goal: Goal) -> Tensor:
        """Return the fused loss (N,) of logits (K, N, classes). By default, it is the weighted mean of the losses.

        `shares` are the weights: (K, 1), which sum to 1, or (K, N) if each image has its own weights.
        """
        assert isinstance(objective, Objective), "an ensemble rule never fuses losses of features"
        return (shares * objective.loss(logits, labels, goal)).sum(0)

    def gradient(self, image: Tensor, models: ModelsAt, sample: int, state: State) -> Tensor:
        """Return the gradient at `image`, float (N, C, H, W). By default, it is the gradient of the fused loss."""
        return models.joint(image, sample)

    def cost(self, sources: int) -> int:
        """Return the number of gradients of single models that the rule takes for one gradient of `sources` models."""
        return sources

    def forwards(self, sources: int) -> int:
        """Return the number of further forward passes (`models.logits`) for one gradient of `sources` models."""
        return 0


class Change(Component):
    """A change of the source models while an attack takes their gradients."""

    alone: ClassVar[bool] = False
    """Whether a pass may hold only one copy of each image.

    This is so if the change affects the whole network and differs from copy to copy.
    """
    uses_weight_set: ClassVar[bool] = False
    """Whether every source model needs a set of weights (`weights: {set: …}`)."""

    @property
    def extra_gradients(self) -> int:
        """Number of further backward passes through a whole network that the change adds to one gradient."""
        return 0

    @property
    def extra_forwards(self) -> int:
        """Number of further forward passes, without a backward pass, that the change adds to one gradient."""
        return 0

    @property
    def preparing_gradients(self) -> int:
        """Number of gradients per image and model that the change takes before the first step."""
        return 0

    @contextmanager
    def applied(self, models: Mapping[str, nn.Module], draws: PassDraws) -> Iterator[None]:
        """Change all `models` (given by name) within the `with` block, and undo the changes at its end.

        By default, `on` changes each model. Raises StudyError if the change does not apply to a model.
        """
        with ExitStack() as stack:
            for name, model in models.items():
                stack.enter_context(self.on(model, name, draws))
            yield

    def on(self, model: nn.Module, name: str, draws: PassDraws) -> AbstractContextManager[None]:
        """Change one model, called `name`, within the `with` block, and undo the change at the end of the block.

        Raises StudyError if the change does not apply to the model.
        """
        raise NotImplementedError


class BackwardChange(Change):
    """A change of the backward pass of the source models: it changes gradients inside a network."""

    kind: ClassVar[str] = "backward"


class ForwardChange(Change):
    """A change of the forward pass of the source models: it changes features inside a network."""

    kind: ClassVar[str] = "forward"


class Start(Component):
    """The first perturbation of an attack. An attack without a start begins at the clean image."""

    kind: ClassVar[str] = "start"
    at_first: ClassVar[bool] = False
    """Whether the attack starts at the finished images of its first stage. `perturbation` is then not called."""

    def perturbation(self, origin: Tensor, budget: BudgetOutline, rmsd: Tensor | None, draws: Draws) -> Tensor:
        """Return the first perturbation, float (N, C, H, W) like `origin`. The loop projects it onto the budget.

        `rmsd` (N,) holds each image's radius; None if the budget has no radius, as with an epsilon.
        """
        raise NotImplementedError


Projecting = Callable[["Tensor"], "Tensor"]
"""A function from perturbations (N, C, H, W) to perturbations within the budget and the pixel box."""

_HALVINGS = 16


class BudgetRule(Component):
    """A rule for how far an attack may move an image: a measure of perturbations, and a projection onto a radius.

    A spec names the rule in `budget: {rule: …, length: …}`. The size of a finished 8-bit image, by `measure`, is at
    most the radius. To achieve this, changes of pixels are rounded down, except that as many are rounded up as the
    radius of the image allows.
    """

    kind: ClassVar[str] = "budget"
    in_pixel_values: ClassVar[bool] = False
    """Whether the radius divided by the number of steps is a sensible length of a step.

    If not, a recipe needs `step_size`.
    """
    rounding: ClassVar[Literal["measured", "nearest", "ray", "ray or nearest"]] = "measured"
    """How images are rounded.

    `measured` works for every rule; the other values are only for the project's own rules.
    """

    def measure(self, delta: Tensor, origin: Tensor) -> Tensor:
        """Return the size (N,) of perturbations `delta` of the clean images `origin`, both float (N, C, H, W).

        The size must be 0 for an unchanged image. It must not fall if a perturbation is multiplied by a number above 1.
        """
        raise NotImplementedError

    def radius(self, length: float, values: int) -> float | None:
        """Return the radius, in the unit of `measure`, for a `length` in the spec and images of `values` pixel values.

        By default, the radius is the length. Return None if the rule projects without a radius.
        """
        return length

    def project(self, delta: Tensor, origin: Tensor, radius: Tensor) -> Tensor:
        """Return `delta` where its size is at most `radius` (N,), else a perturbation of at most this size.

        By default, such a perturbation is `delta` multiplied by a number below 1, which bisection finds.
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

        `radius` (N,) is None if the budget has no single radius. `levels` are the lengths of the budget. An attack with
        several lengths has at most one step, which needs no projection.
        """
        low, high = -origin, 255 - origin

        def onto(delta: Tensor) -> Tensor:
            found = delta if radius is None else self.project(delta, origin, radius)
            return found.clamp(low, high)

        return onto


class Program(Component):
    """A whole attack that the loop cannot express. The program decides itself which gradients to take."""

    kind: ClassVar[str] = "program"

    def run(self, given: ProgramContext) -> Sequence[Tensor]:
        """Return the perturbation at each of `given.points`, float (N, C, H, W).

        The perturbations are rounded afterwards so that the images keep the budget.
        """
        raise NotImplementedError

    def cost(self, steps: int, sources: int, views: int) -> int:
        """Return the number of gradients per image and model that the program takes in `steps` steps.

        `sources` is the number of source models. `views` is the number of gradients that one call of `given.gradient`
        takes, because of views.
        """
        raise NotImplementedError

    def forwards(self, steps: int, sources: int) -> int:
        """Return the number of forward passes per image and model that the program takes besides its gradients."""
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
