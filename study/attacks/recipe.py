"""An attack as data: which parts the one loop puts together, with their numbers.

All lengths are in pixel values, 0..255. A recipe says nothing of models, images or goals: it is what a spec names.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator
from pydantic_core import PydanticCustomError

from study.attacks.budget_spec import Budget, Length, Lengths, Positive
from study.spec.frozen import Frozen

__all__ = ["Attack", "Budget", "Goal", "Length", "Lengths"]

Goal = Literal["untargeted", "targeted"]
Objective = Literal["cross-entropy", "log(1-p)", "logit", "margin"]
Fusion = Literal["probability", "logit", "loss", "summed-updates"]
Step = Literal["sign", "l2", "adam"]

MADE_FIELDS = ("sources", "goal", "seed")

Copies = Annotated[int, Field(ge=1, le=10_000)]
Share = Annotated[float, Field(ge=0, le=1)]
Decay = Annotated[float, Field(ge=0, le=1)]


class Diversity(Frozen):
    """Input diversity, DI (Xie et al. 2019, arXiv:1803.06978): with `probability` the image is resized to a random
    size between `low` and `high` times its own and put at a random place of a frame, `padding` around it; the frame,
    `high` times the image's size where that is larger, is resized back (bilinear). Xie et al.: 299 to 330 of 299.
    """

    probability: Share = 0.5
    low: Annotated[float, Field(gt=0, le=4)] = 1.0
    high: Annotated[float, Field(gt=0, le=4)] = 330 / 299
    interpolation: Literal["nearest", "bilinear"] = "nearest"
    padding: Annotated[float, Field(ge=0, le=255)] = 0.0

    @model_validator(mode="after")
    def _ordered(self) -> Diversity:
        if self.low > self.high:
            raise PydanticCustomError("parts", "the diversity's low is above its high")
        return self


class Smoothing(Frozen):
    """`copies` (their m) with Gaussian noise of standard deviation `sigma`: smoothed gradients, SG (Wu et al. 2019,
    "Exploring and Enhancing the Transferability of Adversarial Examples", equation 8).
    """

    copies: Copies = 20
    sigma: Positive = 15.0


class Admix(Frozen):
    """Copies with `strength` times another class's image added (Wang et al. 2021, arXiv:2102.00436, equation 3).

    The others come from a pool of the study's own selected images, `pool` of them, chosen by the seed.
    """

    copies: Copies = 3
    strength: Annotated[float, Field(gt=0, le=1)] = 0.2
    pool: Annotated[int, Field(ge=2, le=1000)] = 32


class Kernel(Frozen):
    """The kernel that gradients are convolved with, TI (Dong et al. 2019, arXiv:1904.02884, section 3.3).

    `size` is 2k + 1. A Gaussian's `sigma` is k / sqrt(3) pixels, as in the paper, unless given (its code has k / 3).
    """

    shape: Literal["uniform", "linear", "gaussian"] = "gaussian"
    size: Annotated[int, Field(ge=1, le=511)] = 15
    sigma: Positive | None = None

    @model_validator(mode="after")
    def _odd(self) -> Kernel:
        if self.size % 2 == 0:
            raise PydanticCustomError("parts", "a kernel's size is odd: 2k + 1 for shifts by up to k pixels")
        if self.sigma is not None and self.shape != "gaussian":
            raise PydanticCustomError("parts", "only a gaussian kernel has a sigma")
        return self


class Variance(Frozen):
    """Variance tuning, VT (Wang and He 2021, arXiv:2103.15571, equation 5): `samples` neighbours within `beta` times
    epsilon.
    """

    samples: Copies = 20
    beta: Positive = 1.5


class SkipGradient(Frozen):
    """The gradient of every residual branch times `gamma`, that of a dense layer's new features times `dense`
    (`gamma` unless given): SGM (Wu et al. 2020, arXiv:2002.05990, equation 9). `models` gives single models of an
    ensemble a gamma of their own. `compatibility: authors` leaves out the blocks that the authors' code leaves out.
    """

    gamma: Decay
    dense: Decay | None = None
    models: dict[str, Decay] = Field(default_factory=dict)
    compatibility: Literal["paper", "authors"] = "paper"

    def of(self, model: str) -> tuple[float, float]:
        """The factors of residual branches and of dense layers of a model, by its name."""
        if model in self.models:
            return self.models[model], self.models[model]
        return self.gamma, self.gamma if self.dense is None else self.dense


class Penalty(Frozen):
    """Liu et al. 2017, appendix: `below` ReLU(rmsd - d) + `above` ReLU(d - rmsd) is taken from the gain, d the RMSD."""

    rmsd: Annotated[float, Field(ge=0, le=255)]
    below: Annotated[float, Field(ge=0, le=1e6)] = 0.0
    above: Annotated[float, Field(ge=0, le=1e6)] = 0.0


class Start(Frozen):
    """Where the first step starts: `random` (uniform in the budget), or with Gaussian noise of a standard deviation."""

    random: Literal[True] | None = None
    gaussian: Positive | None = None

    @model_validator(mode="before")
    @classmethod
    def _shorthand(cls, given: Any) -> Any:
        return {"random": True} if given == "random" else given

    @model_validator(mode="after")
    def _one(self) -> Start:
        if (self.random is None) == (self.gaussian is None):
            raise PydanticCustomError("parts", "a start is `random` or `{gaussian: <standard deviation>}`")
        return self


class Attack(Frozen):
    """One recipe for the loop in `study.attacks.loop`; the parts' own modules say what each choice computes.

    `made: <folder>` is no recipe but its result: images that another tool has made, which are evaluated alone. The
    folder may hold `{sources}` (names joined by `+`), `{goal}` and `{seed}`.
    """

    objective: Objective = "cross-entropy"
    penalty: Penalty | None = None
    fusion: Fusion = "probability"
    weights: dict[str, Positive] = Field(default_factory=dict)
    diversity: Diversity | None = None
    scales: Annotated[int, Field(ge=1, le=16)] = 1
    smoothing: Smoothing | None = None
    admix: Admix | None = None
    skip_gradient: SkipGradient | None = None
    variance: Variance | None = None
    kernel: Kernel | None = None
    momentum: Annotated[float, Field(ge=0, le=100)] = 0.0
    nesterov: bool = False
    step: Step = "sign"
    step_size: Positive | None = None
    learning_rate: Positive | None = None
    start: Start | None = None
    steps: Annotated[int, Field(ge=0, le=100_000)] = 10
    checkpoints: Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(strict=False)] = ()
    budget: Budget = Budget()
    made: str | None = None

    def folder_made(self, sources: str, goal: str, seed: str) -> str:
        """The folder of `made` images of one craft: each of MADE_FIELDS in braces stands for its value."""
        folder = self.made or ""
        for name, value in zip(MADE_FIELDS, (sources, goal, seed), strict=True):
            folder = folder.replace(f"{{{name}}}", value)
        return folder

    @model_validator(mode="before")
    @classmethod
    def _shorthand(cls, given: Any) -> Any:
        """`epsilon: 16` stands for `budget: {epsilon: 16}`, and `budget: none` for no budget."""
        if not isinstance(given, dict):
            return given
        given = dict(given)
        if "epsilon" in given:
            if "budget" in given:
                raise PydanticCustomError("budget", "epsilon and budget say the same thing twice: keep one")
            given["budget"] = {"epsilon": given.pop("epsilon")}
        if given.get("budget", ...) in (None, "none"):
            given["budget"] = {}
        if given.get("made") is not None:
            given.setdefault("steps", 0)
        if given.get("objective") == "logit":
            given.setdefault("fusion", "logit")
        return given

    @field_validator("start", mode="before")
    @classmethod
    def _zero(cls, given: Any) -> Any:
        return None if given == "zero" else given

    @model_validator(mode="after")
    def _parts_fit(self) -> Attack:
        for broken, message in self._conflicts():
            if broken:
                raise PydanticCustomError("parts", message)
        return self

    def _conflicts(self) -> list[tuple[bool, Any]]:
        budget, adam = self.budget, self.step == "adam"
        epsilon = budget.epsilon is not None
        return [
            (adam and self.step_size is not None, "an Adam step has a learning_rate, not a step_size"),
            (
                adam and self.learning_rate is None and self.steps > 0,
                "an Adam step needs a learning_rate (Liu et al. use 4)",
            ),
            (not adam and self.learning_rate is not None, "a learning_rate belongs to `step: adam`; use step_size"),
            (
                not adam and self.step_size is None and budget == Budget() and self.steps > 0,
                "without a budget, a sign or l2 step needs a step_size",
            ),
            (
                self.objective == "logit" and self.fusion == "probability",
                "probabilities have no logit: fuse `objective: logit` by logit, loss or summed-updates",
            ),
            (self.nesterov and not self.momentum, "nesterov looks ahead along the momentum, and momentum is 0"),
            (self.nesterov and adam, "nesterov goes with a sign or l2 step, not with Adam"),
            (self.variance is not None and not epsilon, "variance is in units of epsilon, and the budget has none"),
            (
                self.start is not None and self.start.random is not None and budget == Budget(),
                "a random start is drawn from the budget, and there is none",
            ),
            (
                self.made is not None and self.model_copy(update={"made": None}) != Attack.model_construct(steps=0),
                "images that are made already have no parts of an attack: `made` stands alone",
            ),
            (
                any(mark in self.folder_made(**dict.fromkeys(MADE_FIELDS, "")) for mark in "{}"),
                "a folder of `made` images may hold {sources}, {goal} and {seed}, and nothing else in braces",
            ),
            (
                self.steps == 0 and self.start is None and self.made is None,
                "no steps and no start: the image would stay as it is",
            ),
            (
                len(budget.levels) > 1 and (self.steps > 1 or (self.steps == 1 and self.start is not None)),
                "only a one-step attack has one gradient for many budgets: write one attack for each budget",
            ),
            (
                budget.minimal is not None and (self.steps != 1 or self.start is not None),
                "the minimal RMSD is searched along one gradient: `steps: 1`, and no start",
            ),
            (
                budget.minimal is not None and (adam or self.step_size is not None),
                "the minimal RMSD is searched along a sign or l2 step that has no size of its own",
            ),
            (
                list(self.checkpoints) != sorted(set(self.checkpoints))
                or max(self.checkpoints, default=0) > self.steps,
                "checkpoints are numbers of steps, rising, up to `steps`",
            ),
        ]

    @property
    def copies(self) -> int:
        """Views of the image whose gradients are averaged."""
        smoothed = self.smoothing.copies if self.smoothing else 1
        return smoothed * (self.admix.copies if self.admix else 1) * self.scales

    @property
    def reads_true_labels(self) -> bool:
        """Whether an image's true label decides its pixels, whatever the goal: admix takes images of other classes."""
        return self.admix is not None

    @property
    def points(self) -> list[tuple[int, float | None]]:
        """What one run is scored at: (steps, budget), the finished attack last."""
        stops = [*self.checkpoints, *([] if self.steps in self.checkpoints else [self.steps])]
        return [(stop, level) for stop in stops for level in self.budget.levels]

    def gradients(self, steps: int, sources: int) -> int:
        """Image gradients that one image needs up to `steps`, over `sources` models."""
        tuned = (self.variance.samples if self.variance else 0) * max(0, steps - 1)
        return sources * self.copies * (steps + tuned)

    def weights_of(self, sources: Sequence[str]) -> list[float]:
        """The weight of every source model: they sum to 1, but for summed updates, whose sum is as printed."""
        given = [self.weights.get(name, 1.0) for name in sources]
        return given if self.fusion == "summed-updates" else [one / math.fsum(given) for one in given]


@dataclass(frozen=True)
class Search:
    """What is searched for: at which of `levels` an image first loses its label, or gains the target label."""

    levels: tuple[float, ...]
    goal: Goal
    labels: tuple[int, ...]
    images: tuple[str, ...]
    key: tuple[object, ...]
