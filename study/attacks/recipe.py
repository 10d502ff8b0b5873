"""An attack as data (a recipe): the components that the attack loop combines, and their parameters.

All lengths are in pixel values, 0..255. A recipe does not say on which models and images and with which goals it runs;
the experiments of a spec do.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, cast

from pydantic import AliasChoices, ConfigDict, Field, GetJsonSchemaHandler, model_validator
from pydantic_core import CoreSchema, PydanticCustomError

from study.attacks import presets
from study.attacks.assembly import Assembly
from study.attacks.budget_spec import Budget, Length, Lengths, Positive
from study.attacks.component import AttackOutline, Component
from study.attacks.components.admix import Admix
from study.attacks.components.distance_penalty import DistancePenalty
from study.attacks.components.diversity import Diversity
from study.attacks.components.kernel import Kernel
from study.attacks.components.momentum import Momentum
from study.attacks.components.nesterov import Nesterov
from study.attacks.components.scales import Scales
from study.attacks.components.skip_gradient import SkipGradient
from study.attacks.components.smoothing import Copies, Smoothing
from study.attacks.components.variance import Variance
from study.attacks.external.spec import External
from study.attacks.kinds import FeatureObjective, Goal
from study.attacks.own_code import loaded_or_placeholder
from study.attacks.part import PYTHON, NameOrPart, Part, PartOf
from study.attacks.tune_spec import Tune
from study.spec.frozen import Frozen, rejected
from study.spec.other_names import unknown_preset
from study.spec.shorthand import TEXT, Shorthand

__all__ = ["Attack", "Budget", "Copies", "Goal", "Length", "Lengths", "Part", "Smoothing"]

PRECOMPUTED_KEYS = ("precomputed", "made")
"""The key of precomputed images, and its older name."""

_PLACEHOLDERS = ("sources", "goal", "seed")

_ONE_POINT = (
    "a `first` stage cannot have checkpoints that no component reads, several lengths of its budget, a matched or "
    "`minimal` budget, `external` or `precomputed`"
)

_LISTS = {
    "views": "view",
    "points": "point",
    "updates": "update",
    "penalties": "penalty",
    "backward": "backward",
    "forward": "forward",
}
"""The keys that hold lists of components, and their kinds."""


class Attack(Frozen):
    """The recipe of an attack: the components that the loop combines.

    `precomputed: <folder>` takes the place of a recipe: the study evaluates images that another tool has made. The
    folder's name may contain `{sources}` (names joined by `+`), `{goal}` and `{seed}`.

    `first` is the recipe of a first stage on the same source models. Components can use the finished images of the
    first stage.
    """

    # Ids and run folders contain `precomputed` by its older name, `made`.
    model_config = ConfigDict(serialize_by_alias=True)

    objective: Annotated[str | Part, NameOrPart("objective")] = "cross-entropy"
    penalty: DistancePenalty | None = None
    fusion: Annotated[str | Part, NameOrPart("ensemble")] = "probability"
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
    views: Annotated[tuple[Annotated[Part, PartOf("view")], ...], Field(strict=False)] = ()
    points: Annotated[tuple[Annotated[Part, PartOf("point")], ...], Field(strict=False)] = ()
    updates: Annotated[tuple[Annotated[Part, PartOf("update")], ...], Field(strict=False)] = ()
    penalties: Annotated[tuple[Annotated[Part, PartOf("penalty")], ...], Field(strict=False)] = ()
    backward: Annotated[tuple[Annotated[Part, PartOf("backward")], ...], Field(strict=False)] = ()
    forward: Annotated[tuple[Annotated[Part, PartOf("forward")], ...], Field(strict=False)] = ()
    program: Annotated[Annotated[Part, PartOf("program")] | None, Field()] = None
    step: Annotated[str | Part, NameOrPart("step")] = "sign"
    step_size: Positive | None = None
    learning_rate: Positive | None = None
    start: Annotated[
        Annotated[Part, PartOf("start")] | None,
        Shorthand(lambda given: None if given == "zero" else given, ({"const": "zero"},)),
    ] = None
    steps: Annotated[int, Field(ge=0, le=100_000)] = 10
    checkpoints: Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(strict=False)] = ()
    budget: Annotated[
        Budget,
        Shorthand(lambda given: {} if given in (None, "none") else given, ({"const": "none"}, {"type": "null"})),
    ] = Budget()
    first: Annotated[Attack | None, Field()] = None
    tune: Tune | None = None
    external: External | None = None
    precomputed: Annotated[
        str | None, Field(validation_alias=AliasChoices(*PRECOMPUTED_KEYS), serialization_alias=PRECOMPUTED_KEYS[1])
    ] = None

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        """Return the JSON schema with the accepted keys that are not fields, such as `preset` and `epsilon`."""
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
            "gradients": {**budget["properties"]["gradients"], "description": "Short for `budget: {gradients: …}`."},
            "made": {**TEXT, "description": "Older name of `precomputed`."},
            "python": {**TEXT, "description": "Short for `external: python:<file>.py:<function>`."},
            "arguments": {"type": "object", "description": "The arguments of an `external` attack."},
        }
        return found

    def precomputed_folder(self, sources: str, goal: str, seed: str) -> str:
        """Return the folder of the precomputed images of one attack run, with all placeholders replaced."""
        folder = self.precomputed or ""
        for name, value in zip(_PLACEHOLDERS, (sources, goal, seed), strict=True):
            folder = folder.replace(f"{{{name}}}", value)
        return folder

    @model_validator(mode="before")
    @classmethod
    def _shorthand(cls, given: Any) -> Any:
        """Return the keys of a recipe in their full form, with defaults that depend on other keys.

        `epsilon` and `gradients` are short for a budget with these keys.
        """
        if not isinstance(given, dict):
            return given
        given = dict(given)
        given = _with_external(given)
        if "epsilon" in given:
            if "budget" in given:
                raise PydanticCustomError(
                    "budget", "`epsilon` is short for a budget, and `budget` is given too: keep one"
                )
            given["budget"] = {"epsilon": given.pop("epsilon")}
        if "gradients" in given:
            budget = given.get("budget") or {}
            if not isinstance(budget, dict) or "gradients" in budget:
                raise PydanticCustomError("budget", "`gradients` is short for `budget: {gradients: …}`: keep one")
            given["budget"] = {**budget, "gradients": given.pop("gradients")}
        if any(given.get(key) is not None for key in (*PRECOMPUTED_KEYS, "external")):
            given.setdefault("steps", 0)
        if given.get("objective") == "logit":
            given.setdefault("fusion", "logit")
        if "first" in given:
            given["first"] = _first_stage(given)
        return given

    @model_validator(mode="after")
    def _parts_fit(self) -> Attack:
        for broken, message in self._conflicts():
            if broken:
                raise PydanticCustomError("parts", message)
        return self

    def _conflicts(self) -> list[tuple[bool, Any]]:
        budget, adam = self.budget, self.step == "adam"
        return [
            (adam and self.step_size is not None, "`step: adam` has a learning_rate, not a step_size"),
            (
                adam and self.learning_rate is None and self.steps > 0,
                "`step: adam` needs a learning_rate (Liu et al. use 4)",
            ),
            (not adam and self.learning_rate is not None, "a learning_rate belongs to `step: adam`; use step_size"),
            (
                not adam and self.step_size is None and not self.assembly.budget.in_pixel_values and self.steps > 0,
                "without a budget, every step except adam needs a step_size"
                if budget.kind == "none"
                else f"no step size follows from the budget '{budget.kind}': every step except adam needs a step_size",
            ),
            (
                self.precomputed is not None
                and self.model_copy(update={"precomputed": None}) != Attack.model_construct(steps=0),
                "`precomputed` images need no recipe: remove the other keys of this attack",
            ),
            (
                any(mark in self.precomputed_folder(**dict.fromkeys(_PLACEHOLDERS, "")) for mark in "{}"),
                "the folder of `precomputed` images may have no braces other than {sources}, {goal} and {seed}",
            ),
            (
                self.external is not None
                and self.model_copy(update={"external": None, "budget": Budget()}) != Attack.model_construct(steps=0),
                "an attack by `external` or `python` accepts only `arguments` and `epsilon`: remove other keys",
            ),
            (
                self.external is not None and (budget.kind not in ("none", "epsilon") or len(budget.levels) > 1),
                "an attack by `external` or `python` accepts one `epsilon` or no budget",
            ),
            (
                self.steps == 0 and self.start is None and self.precomputed is None and self.external is None,
                "an attack without steps and without `start` does not change an image",
            ),
            (
                len(budget.levels) > 1 and (self.steps > 1 or (self.steps == 1 and self.start is not None)),
                "a budget of several lengths needs `steps: 1` and no `start`: otherwise write an attack per length",
            ),
            (
                budget.minimal is not None and (self.steps != 1 or self.start is not None),
                "the search of the minimal RMSD follows one gradient: it needs `steps: 1` and no `start`",
            ),
            (
                budget.minimal is not None and (adam or self.step_size is not None),
                "the search of the minimal RMSD needs a step other than `adam`, without a step_size",
            ),
            (
                list(self.checkpoints) != sorted(set(self.checkpoints))
                or max(self.checkpoints, default=0) > self.steps,
                "checkpoints must be rising numbers of steps, at most `steps`",
            ),
            (
                self.first is not None
                and (
                    self.first.budget.matched
                    or self.first.budget.minimal is not None
                    or len(self.first.budget.levels) > 1
                    or self.first.external is not None
                    or self.first.precomputed is not None
                ),
                _ONE_POINT,
            ),
            (
                self.first is not None and any(part.python for part in self.first.parts),
                "a `first` stage cannot have components from a user's file",
            ),
            *self._first_stage_conflicts(),
            *((True, message) for message in self.conflicts()),
        ]

    def _first_stage_conflicts(self) -> Iterator[tuple[bool, str]]:
        users = [one.name for one in self.assembly if one.uses_first]
        own = any(part.python for part in self.parts)
        yield bool(users) and self.first is None, f"`{''.join(users[:1])}` needs a `first` stage, such as `first: mi`"
        wanted = max((one.first_points for one in self.assembly if one.uses_first), default=1)
        points = 1 if self.first is None else len(self.first.scored_points)
        yield (
            self.first is not None and not own and points != wanted,
            _ONE_POINT
            if wanted == 1
            else f"`{users[0]}` reads {wanted} images of the `first` stage, which has {points}: give the stage "
            f"{wanted} steps, and `checkpoints` at all steps but the last",
        )
        yield (
            self.first is not None and not users and not own,
            "no component of this attack uses the images of its `first` stage: remove `first`",
        )

    def conflicts(self) -> Iterator[str]:
        """Yield a sentence for each conflict between a component and the rest of the attack.

        These conflicts depend on the classes of the components. Those of components in a user's file are found only
        when the file is loaded.
        """
        assembly = self.assembly
        if assembly.averages == "logits" and isinstance(assembly.objective, FeatureObjective):
            yield "a view that averages logits needs an objective that reads logits, not features"
        if assembly.alone and assembly.together and assembly.copies > 1:
            alone = next(change.name for change in assembly.changes if change.alone)
            joint = next((view.name for view in assembly.views if view.averages == "logits"), assembly.objective.name)
            yield (
                f"`{alone}` needs a pass for each copy of an image, but with `{joint}` all copies have one common loss "
                f"and pass together: remove `{alone}` or `{joint}`"
            )
        outline = AttackOutline(assembly.names(), self.budget, self.steps, self.step_size, self.first is not None)
        for component in assembly:
            yield from component.conflicts(outline)

    @functools.cached_property
    def assembly(self) -> Assembly:
        """The components, in the order in which the loop runs them.

        In each list, components that have a key of their own in the recipe come first, in a fixed order (views: admix,
        smoothing, scales, diversity; points: variance, nesterov; updates: kernel, momentum).
        """
        scales = None if self.scales == 1 else Scales(copies=self.scales)
        momentum = Momentum(decay=self.momentum) if self.momentum else None
        short: dict[str, tuple[Component | None, ...]] = {
            "views": (self.admix, self.smoothing, scales, self.diversity),
            "points": (self.variance, Nesterov() if self.nesterov else None),
            "updates": (self.kernel, momentum),
            "penalties": (self.penalty,),
            "backward": (self.skip_gradient,),
            "forward": (),
        }
        lists = {
            key: (*(one for one in short[key] if one is not None), *map(loaded_or_placeholder, getattr(self, key)))
            for key in _LISTS
        }
        single = {
            "objective": _component("objective", self.objective),
            "ensemble": _component("ensemble", self.fusion),
            "step": _component("step", self.step),
            "start": None if self.start is None else loaded_or_placeholder(self.start),
            "program": None if self.program is None else loaded_or_placeholder(self.program),
            "budget": loaded_or_placeholder(self.budget.part),
        }
        return Assembly(**cast(Any, lists | single))

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Attack:
        """Return a copy as pydantic's `model_copy` does, but without the cached assembly.

        The copy builds its own assembly, because it may have other components.
        """
        found = super().model_copy(update=update, deep=deep)
        found.__dict__.pop("assembly", None)
        return found

    def __getstate__(self) -> dict[Any, Any]:
        """Return the state for pickling, without the assembly.

        The assembly may contain classes of a user's file, which each process must load itself.
        """
        state = super().__getstate__()
        return {**state, "__dict__": {key: one for key, one in state["__dict__"].items() if key != "assembly"}}

    @property
    def parts(self) -> list[Part]:
        """All components that the recipe holds as a `Part`.

        These are the components in lists, `start`, `program` and the `rule` of the budget, and those of `objective`,
        `fusion` and `step` that have parameters or are from a user's file. Components that have their own key, such as
        `momentum`, are not included.
        """
        several = (self.objective, self.fusion, self.step, self.start, self.program, self.budget.rule)
        single = [one for one in several if one is not None]
        listed = [one for key in _LISTS for one in getattr(self, key)]
        return [one for one in (*single, *listed) if isinstance(one, Part)]

    @property
    def automatic_step_size(self) -> float | None:
        """The step size epsilon / steps that follows from a single epsilon.

        None for another budget, for several lengths, for `step: adam`, and without steps.
        """
        (level, *more) = self.budget.levels
        if self.step == "adam" or self.budget.epsilon is None or level is None or more or not self.steps:
            return None
        return level / self.steps

    def plain(self) -> dict[str, Any]:
        """Return the recipe as plain data, without a step size that follows from the budget.

        Lists of components become mappings by name, so that a key such as `views.smoothing.sigma` names a parameter.
        """
        found: dict[str, Any] = self.model_dump(mode="json")
        found |= {key: {one.name or one.python: one.parameters for one in getattr(self, key)} for key in _LISTS}
        return found | ({"step_size": None} if self.step_size == self.automatic_step_size else {})

    @property
    def copies(self) -> int:
        """Number of transformed copies of each image: the larger number of both stages."""
        return max(self.assembly.copies, 1 if self.first is None else self.first.copies)

    @property
    def others(self) -> int:
        """Size of the pool of images that components mix into other images: the larger size of both stages."""
        return max(self.assembly.others, 0 if self.first is None else self.first.others)

    @property
    def reads_true_labels(self) -> bool:
        """Whether the attack reads the true labels even if its goal is targeted.

        Admix does this, because it mixes in images of other classes.
        """
        return self.assembly.reads_true_labels or (self.first is not None and self.first.reads_true_labels)

    @property
    def uses_weight_sets(self) -> bool:
        """Whether every source model needs a set of weights (`weights: {set: …}` in a spec), in either stage."""
        return self.assembly.uses_weight_sets or (self.first is not None and self.first.uses_weight_sets)

    @property
    def separate(self) -> bool:
        """Whether every source model has its own gradient, momentum and step."""
        return self.assembly.ensemble.separate

    @property
    def scored_points(self) -> list[tuple[int, float | None]]:
        """The pairs (number of steps, budget length) at which targets see the images; the finished attack is last."""
        stops = [*self.checkpoints, *([] if self.steps in self.checkpoints else [self.steps])]
        return [(stop, level) for stop in stops for level in self.budget.levels]

    def gradients(self, steps: int, sources: int) -> int:
        """Return the number of gradients that one image takes in `steps` steps on `sources` source models.

        Gradients of a first stage count too. For an attack of another library the number is 0, because only the workers
        can count the gradients of such an attack.
        """
        first = 0 if self.first is None else self.first.gradients(self.first.steps, sources)
        return first + self.assembly.gradients(steps, sources)

    def forwards(self, steps: int, sources: int) -> int:
        """Return the number of forward passes without a gradient that one image takes in `steps` steps.

        The number is the sum over `sources` source models, and includes those of a first stage.
        """
        first = 0 if self.first is None else self.first.forwards(self.first.steps, sources)
        return first + self.assembly.forwards(steps, sources)

    def weights_of(self, sources: Sequence[str]) -> list[float]:
        """Return the weight of every source model in `sources`.

        The weights sum to 1, except if the models are separate.
        """
        given = [self.weights.get(name, 1.0) for name in sources]
        return given if self.separate else [one / math.fsum(given) for one in given]


def _with_external(given: dict[str, Any]) -> dict[str, Any]:
    """Return the keys with `external` (or `python`) and `arguments` joined to one mapping under the key `external`.

    Examples are `external: "torchattack:BSR"` and `python: "mine.py:attack"`.
    """
    if not isinstance(given.get("external", ""), str) or not given.keys() & {"external", PYTHON}:
        return given
    inner = {key: given.pop(key) for key in ("external", PYTHON, "arguments") if key in given}
    return {**given, "external": inner}


def _first_stage(given: dict[str, Any]) -> Any:
    """Return the keys of the first stage, completed by those of its preset.

    A stage without a budget gets the budget of the whole attack.
    """
    first = given["first"]
    if isinstance(first, str):
        first = {"preset": first}
    if not isinstance(first, dict):
        return first
    first = dict(first)
    if first.keys().isdisjoint(("epsilon", "budget")) and (budget := given.get("budget")) is not None:
        first["budget"] = (
            {key: one for key, one in budget.items() if key != "gradients"} if isinstance(budget, dict) else budget
        )
    if "preset" not in first:
        return first
    name = first.pop("preset")
    if not isinstance(name, str) or presets.preset(name) is None:
        error = unknown_preset(str(name))
        raise rejected(error.what, str(error.accepted))
    return presets.keys_of(name, first)


def _component(kind: str, given: str | Part) -> Component:
    return loaded_or_placeholder(given if isinstance(given, Part) else Part(kind=kind, name=given))


@dataclass(frozen=True)
class Search:
    """A search of the minimal RMSD: the first of `levels` at which an image succeeds.

    An image succeeds if it loses the true label, or, for a targeted goal, gains the target label. `labels` are these
    labels, one for each of `images`, which are ids. `key`, together with an image's id, keys the random numbers of
    rounding.
    """

    levels: tuple[float, ...]
    goal: Goal
    labels: tuple[int, ...]
    images: tuple[str, ...]
    key: tuple[object, ...]
