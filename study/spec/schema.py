"""The spec: the parts of a study, as a user writes them in YAML.

All keys that change a pixel are outside the section `run`, which only says where a study runs, on how many workers and
how fast. Some keys outside `run` change no pixel either, such as the paths in `images`, which only locate the data.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, model_serializer, model_validator
from pydantic_core import PydanticCustomError

from study.attacks.part import without_declarations
from study.attacks.recipe import Attack, Goal
from study.defences.transforms import Transforms
from study.geometry.spec import Probe
from study.images.image_sets import ImageSet
from study.images.labels import LabelSet, label_set
from study.models.families import family_of
from study.models.reference import Model
from study.papers.finding_spec import Finding
from study.papers.registry import Published
from study.reproducibility.numerics import Numerics
from study.spec import yaml_document
from study.spec.budget_units import with_units
from study.spec.frozen import Frozen
from study.spec.run_options import RunOptions
from study.spec.shorthand import TEXT, TEXTS, Names, OneOrMore, Shorthand, instead
from study.tracking.settings import Tracking
from study.visibility.settings import VisibilityOptions

_PACING_OF_SERVICES = ("credentials", "rate", "parallel", "timeout", "attempts", "backoff", "most_wait", "most")
"""Keys of a remote service that do not change its answers."""

FORMAT = 2
"""The format of the run folders that a launch writes. It determines which values are hashed into ids."""

_RULES = ("each", "leave-one-out", "all")
_SOME = {"anyOf": [TEXT, TEXTS]}
_OR_EMPTY = Shorthand(lambda given: {} if given is None else given, ({"type": "null"},))

Seed = Annotated[int, Field(ge=0, lt=2**63)]
Seeds = OneOrMore[Seed]

SourceSet = tuple[str, ...]
"""The names of the models that an attack run takes gradients from, in string order."""


class Sources(Frozen):
    """The source models of an experiment: single models, or ensembles of models.

    - `each` (every model singly), `leave-one-out` (ensembles of all models but one) or `all` (one ensemble of all), on
      all models of the spec that have gradients; `{each: [a, b]}` is the same rule on some of them;
    - a list of models and of lists of models: `[a, [b, c]]` is the model a, and the ensemble of b and c;
    - `elsewhere`: another tool has made the images, on models that are not in this spec.
    """

    model_config = ConfigDict(
        json_schema_extra=instead(
            {"enum": [*_RULES, "elsewhere"]},
            {
                "type": "object",
                "properties": dict.fromkeys(_RULES, _SOME),
                "additionalProperties": False,
                "minProperties": 1,
                "maxProperties": 1,
            },
            {"type": "array", "items": _SOME, "minItems": 1},
        )
    )

    rule: Literal["each", "leave-one-out", "all", "sets", "elsewhere"]
    among: Names | None = None
    sets: Annotated[tuple[Names, ...], Field(strict=False)] = ()

    @model_validator(mode="before")
    @classmethod
    def _from_yaml(cls, given: Any) -> Any:
        if isinstance(given, str) and given in (*_RULES, "elsewhere"):
            return {"rule": given}
        if isinstance(given, dict) and len(given) == 1 and next(iter(given)) in _RULES:
            ((rule, among),) = given.items()
            return {"rule": rule, "among": among}
        if isinstance(given, list) and given:
            return {"rule": "sets", "sets": given}
        raise PydanticCustomError(
            "sources",
            "'{given}' names no source models",
            {
                "given": str(given),
                "accepted": "each, leave-one-out, all, {each: [a, b]}, a list such as [a, [b, c]], or elsewhere",
            },
        )

    @model_serializer
    def _to_yaml(self) -> Any:
        if self.rule == "sets":
            return [list(one) for one in self.sets]
        return self.rule if self.among is None else {self.rule: list(self.among)}

    def resolve(self, models: Sequence[str]) -> list[SourceSet]:
        """Return the source sets, each once. `models`: all models of the spec that can be sources."""
        among = list(dict.fromkeys(self.among or models))
        if self.rule == "elsewhere":
            return [()]
        if self.rule == "sets":
            chosen = [tuple(sorted(set(one))) for one in self.sets]
        elif self.rule == "each":
            chosen = [(name,) for name in among]
        elif self.rule == "all":
            chosen = [tuple(sorted(among))]
        else:
            chosen = [tuple(sorted(set(among) - {name})) for name in among]
        return list(dict.fromkeys(chosen))


class Targets(Frozen):
    """The target models of an experiment.

    - a list of models, for all sources;
    - `{not-family-of: sources}`: for each source set, all models except the kin of its sources. The kin of a source are
      the source itself and all models of its family (`study models` prints families; the key `family` sets one);
    - `{not-family-of: [resnet50, inception]}`: all models except the kin of these models or of these families.

    `among` names the models that a rule chooses from; without `among`, it chooses from all models that predict images.
    """

    model_config = ConfigDict(
        serialize_by_alias=True,
        validate_by_name=True,
        json_schema_extra=instead(
            TEXT,
            TEXTS,
            {
                "type": "object",
                "properties": {"not-family-of": _SOME, "among": _SOME},
                "required": ["not-family-of"],
                "additionalProperties": False,
            },
        ),
    )

    models: Names | None = None
    not_family_of: Annotated[Names | None, Field(alias="not-family-of")] = None
    among: Names | None = None

    @model_validator(mode="before")
    @classmethod
    def _from_yaml(cls, given: Any) -> Any:
        return {"models": given} if isinstance(given, str | list | tuple) else given

    @model_validator(mode="after")
    def _one_form(self) -> Targets:
        if (self.models is None) == (self.not_family_of is None):
            raise PydanticCustomError("parts", "targets are a list of models, or {not-family-of: sources}")
        return self

    @model_serializer
    def _to_yaml(self) -> Any:
        if self.not_family_of is None:
            return list(self.models or ())
        among = {} if self.among is None else {"among": list(self.among)}
        return {"not-family-of": list(self.not_family_of), **among}

    @property
    def named(self) -> tuple[str, ...]:
        """The models in `models`, else those in `among`; empty if the targets name no models."""
        return self.models or self.among or ()


class AtCost(Frozen):
    """Compare attacks at equal cost: every attack gets a checkpoint at each of these numbers of `gradients`.

    `gradients` counts gradients of one image per source model, including those of views, neighbours and preparing
    passes. The step size is that of the recipe. Such an attack is named after its last cost, as in `mi-to-400`.
    """

    gradients: Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(strict=False, min_length=1)]

    @model_validator(mode="after")
    def _rising(self) -> AtCost:
        if list(self.gradients) != sorted(set(self.gradients)):
            raise PydanticCustomError("parts", "`gradients` must be different numbers in ascending order")
        return self


class Experiment(Frozen):
    """One table or figure: attacks x sources x goals x seeds. Every target sees the images of every attack run."""

    model_config = ConfigDict(serialize_by_alias=True, validate_by_name=True)

    attacks: Names
    sources: Sources
    goal: OneOrMore[Goal] = ("untargeted",)
    targets: Targets | None = None
    seeds: Seeds | None = None
    at_cost: AtCost | None = Field(default=None, alias="at-cost")
    published: Published | None = None


class Spec(Frozen):
    """A whole study.

    `seed` seeds the selection of images and all random draws about images. `seeds` are the seeds of the attacks: every
    attack runs once with each of them; if `seeds` is absent, attacks run once with `seed`. `format` is the format of
    the run folder and its ids; the program writes it.
    """

    study: str
    format: Annotated[int, Field(ge=1, le=FORMAT)] = FORMAT
    seed: Seed = 0
    seeds: Seeds | None = None
    images: ImageSet
    models: Annotated[dict[str, Annotated[Model, _OR_EMPTY]], Field(min_length=1)]
    attacks: dict[str, Annotated[Attack, _OR_EMPTY]] = Field(default_factory=dict)
    experiments: Annotated[dict[str, Experiment], Field(min_length=1)]
    geometry: dict[str, Probe] = Field(default_factory=dict)
    findings: dict[str, Finding] = Field(default_factory=dict)
    visibility: VisibilityOptions = VisibilityOptions()
    numerics: Numerics = Numerics()
    run: RunOptions = RunOptions()
    tracking: Tracking = Tracking()

    def targets(self, experiment: Experiment, sources: SourceSet | None = None) -> tuple[str, ...]:
        """The target models of an experiment: those that it lists, in this order; else all models that predict images.

        `not-family-of` leaves out the kin of `sources`. If `sources` is None, only models that are left out for every
        source set are left out.
        """
        asked = experiment.targets
        named = () if asked is None else asked.named
        candidates = tuple(dict.fromkeys(named)) or tuple(self.predicting)
        if asked is None or asked.not_family_of is None:
            return candidates
        if sources is not None:
            kin = self._kin(asked.not_family_of, sources)
            return tuple(name for name in candidates if name not in kin)
        shown = {name for one in self.source_sets(experiment) for name in self.targets(experiment, one)}
        return tuple(name for name in candidates if name in shown)

    def kin_left_out(self, experiment: Experiment) -> dict[SourceSet, tuple[str, ...]]:
        """By source set, the targets that only other source sets have. Source sets without such models are absent."""
        every = self.targets(experiment)
        left = {one: set(every) - set(self.targets(experiment, one)) for one in self.source_sets(experiment)}
        return {one: tuple(name for name in every if name in kin) for one, kin in left.items() if kin}

    def family(self, model: str) -> str | None:
        """The family of a model; None if it is unknown."""
        return family_of(self.models[model])

    def _kin(self, named: Sequence[str], sources: Sequence[str]) -> set[str]:
        """The models that are kin of the `named` models and families; `sources` stands for the source models."""
        strangers = {*(sources if "sources" in named else ()), *(name for name in named if name in self.models)}
        families = {*(self.family(name) for name in strangers), *named} - {None}
        return {name for name in self.models if name in strangers or self.family(name) in families}

    def seeds_of(self, experiment: Experiment) -> tuple[int, ...]:
        """The seeds of an experiment's attacks, each once."""
        return tuple(dict.fromkeys(experiment.seeds or self.seeds or (self.seed,)))

    @property
    def first_attack_seed(self) -> int:
        """The seed of the attacks whose perturbations are directions of probes."""
        return (self.seeds or (self.seed,))[0]

    @property
    def targeted(self) -> bool:
        """Whether images need target labels: for a targeted experiment, or for any probe."""
        return any("targeted" in one.goal for one in self.experiments.values()) or bool(self.geometry)

    @property
    def labels(self) -> LabelSet:
        """The label set of images and models."""
        return label_set(self.images.labels)

    @property
    def services(self) -> list[str]:
        """The models that are remote services, in the order of the spec."""
        return [name for name, model in self.models.items() if model.remote is not None]

    @property
    def predicting(self) -> list[str]:
        """The models that predict images, in the order of the spec: all except models with `role: source`."""
        return [name for name, model in self.models.items() if not model.source_only]

    @property
    def credentials(self) -> tuple[str, ...]:
        """The environment variables that hold credentials of services."""
        remotes = [model.remote for model in self.models.values() if model.remote is not None]
        judges = [judge for remote in remotes if (judge := remote.judging) is not None]
        needed = [one.credentials.env for one in (*remotes, *judges) if one.credentials is not None]
        return tuple(dict.fromkeys(needed))

    def source_sets(self, experiment: Experiment) -> list[SourceSet]:
        """The source sets of an experiment. The rules `each`, `leave-one-out` and `all` skip target-only models."""
        return experiment.sources.resolve(tuple(name for name, model in self.models.items() if not model.target_only))

    def sources(self) -> list[str]:
        """Every model that is a source in some experiment, in the order of the spec."""
        used = {
            name for experiment in self.experiments.values() for one in self.source_sets(experiment) for name in one
        }
        return [name for name in self.models if name in used]

    def predicting_sources(self) -> list[str]:
        """The sources that predict images too, in the order of the spec."""
        return [name for name in self.sources() if not self.models[name].source_only]

    def text(self) -> str:
        """The resolved spec as YAML: `study.spec.loading.read_resolved` reads an equal spec from it."""
        data = self.model_dump(mode="json")
        data["attacks"] = {name: with_units(self.attacks[name], one) for name, one in data["attacks"].items()}
        return yaml_document.dump(data)

    def identity(self) -> dict[str, Any]:
        """The part of the spec that determines which rows a run has, and their content.

        It leaves out the paths of files, the pacing and credentials of services, `published` of experiments, and the
        sections `run`, `tracking` and `findings`.
        """
        left_out: Any = {"run": True, "tracking": True, "findings": True, "images": set(ImageSet.PLACES)}
        data: dict[str, Any] = self.model_dump(mode="json", exclude=left_out)
        for model in data["models"].values():
            kind = str(model["weights"]).partition(":")[0]
            if kind in ("file", "set"):
                model["weights"] = kind
            if model["transform"] is not None:
                model["transform"] = Transforms.model_validate(model["transform"]).identity()
            if model["remote"] is not None:
                model["remote"] = {
                    key: value for key, value in model["remote"].items() if key not in _PACING_OF_SERVICES
                }
        data["visibility"] = self.visibility.identity()
        for name, attack in data["attacks"].items():
            # Compare the step size as the user gave it: a change of the budget is not a change of step_size.
            size = {"step_size": self.attacks[name].plain()["step_size"]}
            data["attacks"][name] = without_declarations(attack) | {"made": attack["made"] is not None} | size
        for experiment in data["experiments"].values():
            del experiment["published"]
        return data
