"""An attack as data: the parts that the loop combines, and their numbers.

All lengths are in pixel values, 0..255. A recipe does not name models, images or goals: the spec's experiments do.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import AliasChoices, ConfigDict, Field, GetJsonSchemaHandler, model_validator
from pydantic_core import CoreSchema, PydanticCustomError

from study.attacks import presets
from study.attacks.budget_spec import Budget, Length, Lengths, Positive
from study.spec.frozen import Frozen
from study.spec.shorthand import TEXT, Shorthand, also

__all__ = ["Attack", "Budget", "Goal", "Length", "Lengths"]

Goal = Literal["untargeted", "targeted"]
Objective = Literal["cross-entropy", "log(1-p)", "logit", "margin"]
Fusion = Literal["probability", "logit", "loss", "summed-updates"]
Step = Literal["sign", "l2", "adam"]

PRECOMPUTED_KEYS = ("precomputed", "made")
"""The key of precomputed images, and its older name."""

_PLACEHOLDERS = ("sources", "goal", "seed")

Copies = Annotated[int, Field(ge=1, le=10_000)]
Share = Annotated[float, Field(ge=0, le=1)]
Decay = Annotated[float, Field(ge=0, le=1)]


class Diversity(Frozen):
    """Input diversity, DI (Xie et al. 2019, arXiv:1803.06978).

    With `probability`, the image is resized to a random size between `low` and `high` times its own, and put at a
    random place of a frame filled with `padding` (a pixel value). The frame has `high` times the image's size, but at
    least the image's size, and is resized back (bilinear). Xie et al. use sizes 299 to 330 for images of 299.
    """

    probability: Share = 0.5
    low: Annotated[float, Field(gt=0, le=4)] = 1.0
    high: Annotated[float, Field(gt=0, le=4)] = 330 / 299
    interpolation: Literal["nearest", "bilinear"] = "nearest"
    padding: Annotated[float, Field(ge=0, le=255)] = 0.0

    @model_validator(mode="after")
    def _ordered(self) -> Diversity:
        if self.low > self.high:
            raise PydanticCustomError("parts", "`low` of the diversity is above its `high`")
        return self


class Smoothing(Frozen):
    """Smoothed gradients, SG: the mean over `copies` with Gaussian noise of standard deviation `sigma` (pixel values).

    Wu et al. 2019, "Exploring and Enhancing the Transferability of Adversarial Examples", equation 8; `copies` is m
    there.
    """

    copies: Copies = 20
    sigma: Positive = 15.0


class Admix(Frozen):
    """Admix: `copies` of the image, each plus `strength` times an image of another class.

    Wang et al. 2021, arXiv:2102.00436, equation 3. The other images come from a pool of `pool` selected images of the
    study, which the seed chooses.
    """

    copies: Copies = 3
    strength: Annotated[float, Field(gt=0, le=1)] = 0.2
    pool: Annotated[int, Field(ge=2, le=1000)] = 32


class Kernel(Frozen):
    """Translation invariance, TI: gradients are convolved with this kernel (Dong et al. 2019, arXiv:1904.02884).

    Section 3.3. `size` is 2k + 1 pixels. Unless given, `sigma` of a Gaussian is k / sqrt(3) pixels as in the paper; the
    authors' code has k / 3.
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
    """Variance tuning, VT: gradients at `samples` random neighbours within `beta` times epsilon.

    Wang and He 2021, arXiv:2103.15571, equation 5.
    """

    samples: Copies = 20
    beta: Positive = 1.5


class SkipGradient(Frozen):
    """Skip gradient method, SGM: gradients of residual branches are multiplied by `gamma`.

    Wu et al. 2020, arXiv:2002.05990, equation 9. Gradients of a dense layer's new features are multiplied by `dense`
    (absent: `gamma`). `models` sets the factor of single models by name. `compatibility: authors` skips the blocks
    that the authors' code skips.
    """

    gamma: Decay
    dense: Decay | None = None
    models: dict[str, Decay] = Field(default_factory=dict)
    compatibility: Literal["paper", "authors"] = "paper"

    def of(self, model: str) -> tuple[float, float]:
        """Return the factors of residual branches and of dense layers for a model, by its name."""
        if model in self.models:
            return self.models[model], self.models[model]
        return self.gamma, self.gamma if self.dense is None else self.dense


class Penalty(Frozen):
    """Distance penalty: the loss minus `below` ReLU(rmsd - d) and minus `above` ReLU(d - rmsd), d the RMSD.

    Liu et al. 2017 (arXiv:1611.02770), appendix.
    """

    rmsd: Annotated[float, Field(ge=0, le=255)]
    below: Annotated[float, Field(ge=0, le=1e6)] = 0.0
    above: Annotated[float, Field(ge=0, le=1e6)] = 0.0


class Start(Frozen):
    """The start of the attack: `random` is uniform within the budget; `gaussian` is noise of this standard deviation.

    Without it, an attack starts at the clean image.
    """

    model_config = ConfigDict(json_schema_extra=also({"const": "random"}))

    random: Literal[True] | None = None
    gaussian: Positive | None = None

    @model_validator(mode="before")
    @classmethod
    def _shorthand(cls, given: Any) -> Any:
        return {"random": True} if given == "random" else given

    @model_validator(mode="after")
    def _one(self) -> Start:
        if (self.random is None) == (self.gaussian is None):
            raise PydanticCustomError("parts", "a start is `random`, `zero` or `{gaussian: <standard deviation>}`")
        return self


class Attack(Frozen):
    """The recipe of an attack: the parts that the loop combines.

    `precomputed: <folder>` takes the place of a recipe: the study evaluates images that another tool has made. The
    folder's name may contain `{sources}` (names joined by `+`), `{goal}` and `{seed}`.
    """

    # Ids and run folders have the older name of `precomputed`.
    model_config = ConfigDict(serialize_by_alias=True)

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
    start: Annotated[
        Start | None, Shorthand(lambda given: None if given == "zero" else given, ({"const": "zero"},))
    ] = None
    steps: Annotated[int, Field(ge=0, le=100_000)] = 10
    checkpoints: Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(strict=False)] = ()
    budget: Annotated[
        Budget,
        Shorthand(lambda given: {} if given in (None, "none") else given, ({"const": "none"}, {"type": "null"})),
    ] = Budget()
    precomputed: Annotated[
        str | None, Field(validation_alias=AliasChoices(*PRECOMPUTED_KEYS), serialization_alias=PRECOMPUTED_KEYS[1])
    ] = None

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        """Add the accepted keys that are not fields."""
        found = handler(schema)
        properties = handler.resolve_ref_schema(found)["properties"]
        budget = handler.resolve_ref_schema(properties["budget"]["anyOf"][0])
        listed = [name for name in presets.known() if presets.preset(name)]
        properties |= {
            "preset": {
                "anyOf": [{"enum": listed}, {"type": "string", "pattern": r".+\+.+"}],
                "description": "The preset that sets all keys that are not given here; `+` joins presets.",
            },
            "epsilon": {**budget["properties"]["epsilon"], "description": "Short for `budget: {epsilon: …}`."},
            "made": {**TEXT, "description": "Older name of `precomputed`."},
        }
        return found

    def precomputed_folder(self, sources: str, goal: str, seed: str) -> str:
        """Return the folder of the precomputed images of one attack run: replace the placeholders by these values."""
        folder = self.precomputed or ""
        for name, value in zip(_PLACEHOLDERS, (sources, goal, seed), strict=True):
            folder = folder.replace(f"{{{name}}}", value)
        return folder

    @model_validator(mode="before")
    @classmethod
    def _shorthand(cls, given: Any) -> Any:
        """`epsilon: 16` is short for `budget: {epsilon: 16}`. Some defaults depend on the values of other keys."""
        if not isinstance(given, dict):
            return given
        given = dict(given)
        if "epsilon" in given:
            if "budget" in given:
                raise PydanticCustomError(
                    "budget", "`epsilon` is short for a budget, and `budget` is given too: keep one"
                )
            given["budget"] = {"epsilon": given.pop("epsilon")}
        if any(given.get(key) is not None for key in PRECOMPUTED_KEYS):
            given.setdefault("steps", 0)
        if given.get("objective") == "logit":
            given.setdefault("fusion", "logit")
        return given

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
            (adam and self.step_size is not None, "`step: adam` has a learning_rate, not a step_size"),
            (
                adam and self.learning_rate is None and self.steps > 0,
                "`step: adam` needs a learning_rate (Liu et al. use 4)",
            ),
            (not adam and self.learning_rate is not None, "a learning_rate belongs to `step: adam`; use step_size"),
            (
                not adam and self.step_size is None and budget == Budget() and self.steps > 0,
                "without a budget, a sign or l2 step needs a step_size",
            ),
            (
                self.objective == "logit" and self.fusion == "probability",
                "`objective: logit` cannot be fused by probability: use fusion logit, loss or summed-updates",
            ),
            (self.nesterov and not self.momentum, "nesterov looks ahead along the momentum, and momentum is 0"),
            (self.nesterov and adam, "nesterov needs a sign or l2 step, not Adam"),
            (self.variance is not None and not epsilon, "variance needs a budget with an epsilon"),
            (
                self.start is not None and self.start.random is not None and budget == Budget(),
                "a random start needs a budget: it is uniform within the budget",
            ),
            (
                self.precomputed is not None
                and self.model_copy(update={"precomputed": None}) != Attack.model_construct(steps=0),
                "`precomputed` images need no recipe: remove the other keys of this attack",
            ),
            (
                any(mark in self.precomputed_folder(**dict.fromkeys(_PLACEHOLDERS, "")) for mark in "{}"),
                "the folder of `precomputed` images has other braces than {sources}, {goal} and {seed}",
            ),
            (
                self.steps == 0 and self.start is None and self.precomputed is None,
                "an attack without steps and without `start` does not change an image",
            ),
            (
                len(budget.levels) > 1 and (self.steps > 1 or (self.steps == 1 and self.start is not None)),
                "several budgets share one gradient only in a one-step attack: write one attack for each budget",
            ),
            (
                budget.minimal is not None and (self.steps != 1 or self.start is not None),
                "the search of the minimal RMSD follows one gradient: it needs `steps: 1` and no `start`",
            ),
            (
                budget.minimal is not None and (adam or self.step_size is not None),
                "the search of the minimal RMSD needs `step: sign` or `step: l2`, without a step_size",
            ),
            (
                list(self.checkpoints) != sorted(set(self.checkpoints))
                or max(self.checkpoints, default=0) > self.steps,
                "checkpoints are rising numbers of steps, at most `steps`",
            ),
        ]

    @property
    def copies(self) -> int:
        """Number of views whose gradients are averaged."""
        smoothed = self.smoothing.copies if self.smoothing else 1
        return smoothed * (self.admix.copies if self.admix else 1) * self.scales

    @property
    def reads_true_labels(self) -> bool:
        """Whether pixels depend on the true label for every goal: admix mixes in images of other classes."""
        return self.admix is not None

    @property
    def points(self) -> list[tuple[int, float | None]]:
        """The (steps, budget) at which targets see an attack run's images; the finished attack is last."""
        stops = [*self.checkpoints, *([] if self.steps in self.checkpoints else [self.steps])]
        return [(stop, level) for stop in stops for level in self.budget.levels]

    def gradients(self, steps: int, sources: int) -> int:
        """Return the number of gradients of one image, on `sources` models, up to `steps`."""
        tuned = (self.variance.samples if self.variance else 0) * max(0, steps - 1)
        return sources * self.copies * (steps + tuned)

    def weights_of(self, sources: Sequence[str]) -> list[float]:
        """Return the weight of every source model. They sum to 1, except for summed updates."""
        given = [self.weights.get(name, 1.0) for name in sources]
        return given if self.fusion == "summed-updates" else [one / math.fsum(given) for one in given]


@dataclass(frozen=True)
class Search:
    """A search of the minimal RMSD: the first of `levels` at which an image loses its label, or gains the target label.

    `key` keys the random numbers of rounding, with an image's id.
    """

    levels: tuple[float, ...]
    goal: Goal
    labels: tuple[int, ...]
    images: tuple[str, ...]
    key: tuple[object, ...]
