"""The spec: what a person writes in YAML, validated, resolved and frozen.

Everything that changes a pixel stands above `run:`; `run:` holds only where, how many and how fast. The exceptions are
the two paths in `images`, which say where the data lies, not what it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, field_validator, model_serializer, model_validator
from pydantic_core import PydanticCustomError

from study.attacks import presets
from study.attacks.presets import keys_of
from study.attacks.recipe import Attack, Goal
from study.errors import StudyError, names
from study.geometry.spec import Probe
from study.images.image_sets import ImageSet
from study.images.labels import LabelSet, label_set
from study.models.catalogue import SHORT_NAMES
from study.models.reference import ORIGINS, Model
from study.papers.finding_spec import Finding
from study.papers.registry import Published
from study.reproducibility.numerics import Numerics
from study.spec import yaml_document as documents
from study.spec.frozen import Frozen
from study.spec.length_units import check_units
from study.spec.run_options import Run
from study.spec.validation import Checks
from study.spec.validation_errors import first_complaint
from study.spec.yaml_document import Document, Place
from study.tracking.settings import Tracking

Names = Annotated[tuple[str, ...], Field(strict=False, min_length=1)]
_HOW_ASKED = ("credentials", "rate", "parallel", "timeout", "attempts", "backoff", "most_wait")
"""Keys of a remote service that do not change what it is asked."""

Seed = Annotated[int, Field(ge=0, lt=2**63)]
Seeds = Annotated[tuple[Seed, ...], Field(strict=False, min_length=1)]

SourceSet = tuple[str, ...]
"""The names of the models that one craft takes gradients from, in string order."""


class Sources(Frozen):
    """Which models, or ensembles of models, an experiment crafts on.

    Written `each`, `leave-one-out` or `all`; the same of a few: `{each: [a, b]}`; or as a list of models and of
    lists of models: `[a, [b, c]]` is a alone, and the ensemble of b and c. `elsewhere`: images that were made
    already, on models that this spec does not have.
    """

    rule: Literal["each", "leave-one-out", "all", "sets", "elsewhere"]
    among: Names | None = None
    sets: Annotated[tuple[Names, ...], Field(strict=False)] = ()

    @model_validator(mode="before")
    @classmethod
    def _from_yaml(cls, given: Any) -> Any:
        rules = ("each", "leave-one-out", "all")
        if isinstance(given, str) and given in (*rules, "elsewhere"):
            return {"rule": given}
        if isinstance(given, dict) and len(given) == 1 and next(iter(given)) in rules:
            ((rule, among),) = given.items()
            return {"rule": rule, "among": [among] if isinstance(among, str) else among}
        if isinstance(given, list) and given:
            return {"rule": "sets", "sets": [[one] if isinstance(one, str) else one for one in given]}
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
        """The source sets, each once, given all models of the spec that can be sources."""
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


class Experiment(Frozen):
    """One table or figure: attacks x sources x goals x seeds, every craft shown to every target."""

    attacks: Names
    sources: Sources
    goal: Annotated[tuple[Goal, ...], Field(strict=False, min_length=1)] = ("untargeted",)
    targets: Names | None = None
    seeds: Seeds | None = None
    published: Published | None = None

    @field_validator("attacks", "goal", "targets", "seeds", mode="before")
    @classmethod
    def _one_is_a_list(cls, given: Any) -> Any:
        return [given] if isinstance(given, str | int) else given


class Spec(Frozen):
    """A whole study.

    `seed` decides which images are selected, and what is drawn about them; `seeds`, the same one unless given, what
    attacks draw: everything is crafted once with each.
    """

    study: str
    seed: Seed = 0
    seeds: Seeds | None = None
    images: ImageSet
    models: Annotated[dict[str, Model], Field(min_length=1)]
    attacks: dict[str, Attack] = Field(default_factory=dict)
    experiments: Annotated[dict[str, Experiment], Field(min_length=1)]
    geometry: dict[str, Probe] = Field(default_factory=dict)
    findings: dict[str, Finding] = Field(default_factory=dict)
    numerics: Numerics = Numerics()
    run: Run = Run()
    tracking: Tracking = Tracking()

    @field_validator("seeds", mode="before")
    @classmethod
    def _one_is_a_list(cls, given: Any) -> Any:
        return [given] if isinstance(given, int) else given

    def targets(self, experiment: Experiment) -> tuple[str, ...]:
        """The target models of an experiment, in the order of the spec."""
        return tuple(self.models) if experiment.targets is None else tuple(dict.fromkeys(experiment.targets))

    def seeds_of(self, experiment: Experiment) -> tuple[int, ...]:
        """What the attacks of an experiment draw from, each once."""
        return tuple(dict.fromkeys(experiment.seeds or self.seeds or (self.seed,)))

    @property
    def targeted(self) -> bool:
        """Whether some experiment or probe leads images to target labels."""
        return any("targeted" in one.goal for one in self.experiments.values()) or bool(self.geometry)

    @property
    def labels(self) -> LabelSet:
        """The labels that images and models speak of."""
        return label_set(self.images.labels)

    @property
    def services(self) -> list[str]:
        """The models that are remote services, in the order of the spec."""
        return [name for name, model in self.models.items() if model.remote is not None]

    @property
    def credentials(self) -> tuple[str, ...]:
        """The variables whose values are secrets of services."""
        remotes = [model.remote for model in self.models.values() if model.remote is not None]
        return tuple(remote.credentials.env for remote in remotes if remote.credentials is not None)

    def source_sets(self, experiment: Experiment) -> list[SourceSet]:
        """The source sets of an experiment; models that take no gradients are in none that it does not name."""
        return experiment.sources.resolve(tuple(name for name, model in self.models.items() if not model.target_only))

    def sources(self) -> list[str]:
        """Every model that some experiment crafts on, in the order of the spec."""
        used = {
            name for experiment in self.experiments.values() for one in self.source_sets(experiment) for name in one
        }
        return [name for name in self.models if name in used]

    def text(self) -> str:
        """The resolved spec as YAML, of which `written` makes an equal spec again."""
        return documents.dump(self.model_dump(mode="json"))

    def identity(self) -> dict[str, Any]:
        """All that decides which rows there are and what is in them; not where files lie, how a service is paced."""
        left_out: Any = {"run": True, "tracking": True, "findings": True, "images": set(ImageSet.PLACES)}
        data: dict[str, Any] = self.model_dump(mode="json", exclude=left_out)
        for model in data["models"].values():
            if str(model["weights"]).startswith("file:"):
                model["weights"] = "file"
            if model["remote"] is not None:
                model["remote"] = {key: value for key, value in model["remote"].items() if key not in _HOW_ASKED}
        for attack in data["attacks"].values():
            attack["made"] = attack["made"] is not None
        for experiment in data["experiments"].values():
            del experiment["published"]
        return data


@dataclass(frozen=True)
class SpecFile:
    """A spec and the text it came from, so that later errors can still name file, line and key."""

    spec: Spec
    document: Document

    def where(self, *place: str | int) -> str:
        return self.document.where(place)


def load(path: Path, overrides: Sequence[str] = ()) -> SpecFile:
    """Read, resolve and check the spec at `path`, with `key=value` overrides laid over it.

    Raises StudyError with file, line and key for whatever is not understood.
    """
    document = documents.read(path)
    for assignment in overrides:
        documents.override(document, assignment)
    file = resolve(document)
    check_units(file.spec.attacks, document)
    return file


def written(text: str, name: str) -> Spec:
    """The spec that `Spec.text` has written, as it was: nothing is expanded, for that was done at the launch.

    Raises StudyError where it is damaged.
    """
    return resolve(documents.as_written(text, name)).spec


def resolve(document: Document) -> SpecFile:
    """Validate a parsed document and check that its parts fit together."""
    data = document.data
    if not isinstance(data, dict):
        raise StudyError("a spec is a mapping with the keys study, images, models, experiments", where=document.name)
    data = dict(data)
    if "models" in data:
        data["models"] = _with_short_names(data["models"])
    if "attacks" in data:
        data["attacks"] = _with_presets(document, data["attacks"])
    try:
        spec = Spec.model_validate(data)
    except ValidationError as error:
        raise first_complaint(error, document, Spec) from None
    spec = _with_implied_attacks(spec)
    checks = Checks(spec, document)
    checks.models()
    spec = _with_base_models(spec)
    Checks(spec, document).all()
    return SpecFile(spec, document)


def _with_short_names(given: Any) -> Any:
    """A model that does not say where it comes from is the one that its name is short for."""
    if not isinstance(given, dict):
        return given
    models = {}
    for name, entry in given.items():
        keys = {} if entry is None else entry
        if isinstance(keys, dict) and name in SHORT_NAMES and not keys.keys() & set(ORIGINS):
            keys = {"network": name, **keys}
        models[name] = keys
    return models


def _with_base_models(spec: Spec) -> Spec:
    """Models of other models become those, with a transformation in front."""
    models = {
        name: model
        if model.model is None
        else spec.models[model.model].model_copy(update={"transform": model.transform})
        for name, model in spec.models.items()
    }
    return spec.model_copy(update={"models": models})


def _with_presets(document: Document, given: Any) -> Any:
    """Each attack's keys laid over those of its preset: the one it names, or the one it is named after."""
    if not isinstance(given, dict):
        return given
    attacks = {}
    for name, entry in given.items():
        place: Place = ("attacks", name)
        keys = {} if entry is None else entry
        if not isinstance(keys, dict):
            raise StudyError(
                f"an attack is a mapping, and '{name}' is {entry!r}",
                where=document.where(place),
                accepted=f"{name}: {{}}, or keys of a recipe",
            )
        keys = dict(keys)
        preset = keys.pop("preset", name if presets.preset(name) else None)
        if preset is None and not keys.keys() & {"step", "start", "made"}:
            raise StudyError(
                f"'{name}' is not the name of a preset, and the attack neither names one nor has a step of its own",
                where=document.where(place),
                accepted=names(presets.known(), name),
                todo=f"write `{name}: {{preset: …}}`",
            )
        if preset is not None and (not isinstance(preset, str) or presets.preset(preset) is None):
            raise StudyError(
                f"there is no preset named '{preset}'",
                where=document.where((*place, "preset")),
                accepted=names(presets.known(), str(preset)),
            )
        attacks[name] = keys if preset is None else keys_of(preset, keys)
    return attacks


def _with_implied_attacks(spec: Spec) -> Spec:
    """Presets that are used under their own names need no entry."""
    attacks = dict(spec.attacks)
    wanted = [name for experiment in spec.experiments.values() for name in experiment.attacks]
    wanted += [name for probe in spec.geometry.values() for name in probe.attacks]
    while wanted:
        name = wanted.pop(0)
        if name not in attacks and presets.preset(name):
            attacks[name] = Attack.model_validate(keys_of(name, {}))
        if name in attacks and attacks[name].budget.to is not None:
            to = attacks[name].budget.to
            if to not in attacks and presets.preset(str(to)):
                wanted.append(str(to))
    return spec.model_copy(update={"attacks": attacks})
