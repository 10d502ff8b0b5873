"""The spec: the parts of a study, as a user writes them in YAML.

All keys that change a pixel are outside the section `run`. This section only says where a study runs, on how many
workers and how fast, and whether it keeps images. GPUs and processors round differently. Some keys outside `run` change
no pixel either, such as the paths in `images`, which only locate the data.
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
"""The keys of a remote service that do not change the answers of the service."""

FORMAT = 2
"""The format of the run folders that a launch writes. It determines from which values ids are computed."""

_RULES = ("each", "leave-one-out", "all")
_SOME = {"anyOf": [TEXT, TEXTS]}
_OR_EMPTY = Shorthand(lambda given: {} if given is None else given, ({"type": "null"},))

Seed = Annotated[int, Field(ge=0, lt=2**63)]
Seeds = OneOrMore[Seed]

SourceSet = tuple[str, ...]
"""The names of the models that an attack run takes gradients from, sorted as text."""


class Sources(Frozen):
    """The source models of an experiment: single models, or ensembles of models.

    - `each` (every model singly), `leave-one-out` (ensembles of all models but one) or `all` (one ensemble of all)
      apply to all models of the spec that have gradients. `{each: [a, b]}` applies the same rule to some models only;
    - a list contains models and lists of models: `[a, [b, c]]` is the model a, and the ensemble of b and c;
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
                "accepted": "each, leave-one-out, all, a rule for some models such as {each: [a, b]}, a list such as "
                "[a, [b, c]], or elsewhere",
            },
        )

    @model_serializer
    def _to_yaml(self) -> Any:
        if self.rule == "sets":
            return [list(one) for one in self.sets]
        return self.rule if self.among is None else {self.rule: list(self.among)}

    def resolve(self, models: Sequence[str]) -> list[SourceSet]:
        """Return the source sets, each once. `models` are all models of the spec that can be sources."""
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
      the source itself and all models of its family (`study models` prints families; the key `family` of a model sets
      its family);
    - `{not-family-of: [resnet50, inception]}`: all models except the kin of the named models, and except the models of
      the named families.

    `among` names the models from which a rule chooses. Without `among`, a rule chooses from all models that predict
    images.
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
        """The models in `models`, or, if `models` is absent, the models in `among`; empty if both are absent."""
        return self.models or self.among or ()


class AtCost(Frozen):
    """Compare attacks at equal cost: every attack gets a checkpoint at each of these numbers of `gradients`.

    `gradients` counts gradients of one image per source model. Gradients at views, at neighbouring points, and in
    passes before the first step count too. The step size is that of the recipe. An attack with these checkpoints gets a
    name that ends in its last cost, such as `mi-to-400`.
    """

    gradients: Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(strict=False, min_length=1)]

    @model_validator(mode="after")
    def _rising(self) -> AtCost:
        if list(self.gradients) != sorted(set(self.gradients)):
            raise PydanticCustomError("parts", "`gradients` must be different numbers in ascending order")
        return self


class Experiment(Frozen):
    """One table or figure: attacks x sources x goals x seeds. Every target predicts the images of every attack run.

    With `not-family-of`, the targets may depend on the sources.
    """

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
    attack runs once with each of these seeds, or once with `seed` if `seeds` is absent. An experiment can have `seeds`
    of its own. `format` is the format of the
    run folder and its ids; the program writes this key.
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
        """Return the target models of an experiment.

        These are the models that the experiment lists, in its order; without a list, all models that predict images.
        `not-family-of` leaves out some of these models, which may depend on the source set `sources`. If `sources` is
        None, the result has every model that is a target for at least one source set.
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
        """Return, for each source set, the targets of the experiment that `not-family-of` leaves out.

        The result has only the source sets for which at least one target is left out. It does not have models that are
        left out for every source set, because they do not count as targets of the experiment.
        """
        every = self.targets(experiment)
        left = {one: set(every) - set(self.targets(experiment, one)) for one in self.source_sets(experiment)}
        return {one: tuple(name for name in every if name in kin) for one, kin in left.items() if kin}

    def family(self, model: str) -> str | None:
        """Return the family of a model; None if it is unknown."""
        return family_of(self.models[model])

    def _kin(self, named: Sequence[str], sources: Sequence[str]) -> set[str]:
        """Return the models in `named`, all models of their families, and all models of the families in `named`.

        The name "sources" in `named` stands for the models in `sources`.
        """
        strangers = {*(sources if "sources" in named else ()), *(name for name in named if name in self.models)}
        families = {*(self.family(name) for name in strangers), *named} - {None}
        return {name for name in self.models if name in strangers or self.family(name) in families}

    def seeds_of(self, experiment: Experiment) -> tuple[int, ...]:
        """Return the seeds of an experiment's attacks, each once."""
        return tuple(dict.fromkeys(experiment.seeds or self.seeds or (self.seed,)))

    @property
    def first_attack_seed(self) -> int:
        """The first seed of the attacks.

        Probes use this seed for attacks whose perturbations are directions of the probes.
        """
        return (self.seeds or (self.seed,))[0]

    @property
    def targeted(self) -> bool:
        """Whether images need target labels. They do if an experiment is targeted, or if there is a probe."""
        return any("targeted" in one.goal for one in self.experiments.values()) or bool(self.geometry)

    @property
    def labels(self) -> LabelSet:
        """The label set that the images and the models of the study use."""
        return label_set(self.images.labels)

    @property
    def services(self) -> list[str]:
        """The models that are remote services, in the order of the spec."""
        return [name for name, model in self.models.items() if model.remote is not None]

    @property
    def predicting(self) -> list[str]:
        """The models that predict images, in the order of the spec: all models without `role: source`."""
        return [name for name, model in self.models.items() if not model.source_only]

    @property
    def credentials(self) -> tuple[str, ...]:
        """The names of the environment variables that hold credentials of services."""
        remotes = [model.remote for model in self.models.values() if model.remote is not None]
        judges = [judge for remote in remotes if (judge := remote.judging) is not None]
        needed = [one.credentials.env for one in (*remotes, *judges) if one.credentials is not None]
        return tuple(dict.fromkeys(needed))

    def source_sets(self, experiment: Experiment) -> list[SourceSet]:
        """Return the source sets of an experiment.

        The rules `each`, `leave-one-out` and `all` skip models without gradients.
        """
        return experiment.sources.resolve(tuple(name for name, model in self.models.items() if not model.target_only))

    def sources(self) -> list[str]:
        """Return every model that is a source in some experiment, in the order of the spec."""
        used = {
            name for experiment in self.experiments.values() for one in self.source_sets(experiment) for name in one
        }
        return [name for name in self.models if name in used]

    def predicting_sources(self) -> list[str]:
        """Return the sources that also predict images, in the order of the spec."""
        return [name for name in self.sources() if not self.models[name].source_only]

    def text(self) -> str:
        """Return the resolved spec as YAML. From this text, `study.spec.loading.read_resolved` reads an equal spec."""
        data = self.model_dump(mode="json")
        data["attacks"] = {name: with_units(self.attacks[name], one) for name, one in data["attacks"].items()}
        return yaml_document.dump(data)

    def identity(self) -> dict[str, Any]:
        """Return the part of the spec that determines which rows a run has, and what the rows contain.

        Left out are the paths of files, the pacing and credentials of services, the key `published` of experiments, and
        the sections `run`, `tracking` and `findings`.
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
            # Keep a step size only if the user gave it. One that follows from the budget is no change of its own.
            size = {"step_size": self.attacks[name].plain()["step_size"]}
            data["attacks"][name] = without_declarations(attack) | {"made": attack["made"] is not None} | size
        for experiment in data["experiments"].values():
            del experiment["published"]
        return data
