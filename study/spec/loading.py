"""Read a YAML file into a validated spec: resolve presets, short names, and models that refer to another model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from study.attacks import presets
from study.attacks.recipe import PRECOMPUTED_KEYS, Attack
from study.errors import StudyError
from study.models.catalogue import SHORT_NAMES
from study.models.reference import ORIGINS
from study.spec import yaml_document
from study.spec.budget_units import check_units
from study.spec.costs import with_costs
from study.spec.other_names import unknown_preset
from study.spec.own_parts import with_digests
from study.spec.schema import Spec
from study.spec.shipped_specs import located
from study.spec.spec_file import SpecFile
from study.spec.validation import Validation
from study.spec.validation_errors import first_error
from study.spec.yaml_document import Document, Place


def load(path: Path, overrides: Sequence[str] = ()) -> SpecFile:
    """Read, resolve and validate the spec at `path`. If there is no such file, `path` is the name of a shipped spec.

    `overrides` are texts `key=value`, which replace values of the spec. Raises StudyError, with file, line and key, for
    the first error.
    """
    document = yaml_document.read(located(path))
    for assignment in overrides:
        yaml_document.override(document, assignment)
    file = resolve(document)
    check_units(file.spec.attacks, document)
    return SpecFile(with_digests(file.spec, file.where), document)


def read_resolved(text: str, name: str) -> Spec:
    """Read a spec that `Spec.text` has written. `name` is the name of its file, for messages.

    `${NAME}` is not expanded, because the launch that wrote the spec has expanded all variables. Raises StudyError if
    the text is damaged.
    """
    document = yaml_document.as_written(text, name)
    if isinstance(document.data, dict):
        # Specs of format 1 do not contain the key `format`.
        document.data.setdefault("format", 1)
    return resolve(document).spec


def from_data(data: Mapping[str, object], name: str) -> SpecFile:
    """Read, resolve and validate a spec that a program has made. `data` is the content of a spec, as in its YAML file.

    Messages show `name` in place of a file. Raises StudyError, with the key, for the first error.
    """
    document = yaml_document.from_data(data, name)
    file = resolve(document)
    check_units(file.spec.attacks, document)
    return SpecFile(with_digests(file.spec, file.where), document)


def again(spec: Spec, name: str) -> SpecFile:
    """Validate a resolved spec again, because a program may have changed it.

    Messages show `name` in place of a file.
    """
    return resolve(Document(name, yaml_document.as_written(spec.text(), name).data))


def resolve(document: Document) -> SpecFile:
    """Return the validated spec of a parsed YAML document.

    Presets, short names and other short forms are replaced by their full values. Raises StudyError for the first error.
    """
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
        raise first_error(error, document, Spec) from None
    spec = _with_implied_attacks(spec)
    Validation(spec, document).base_models()
    spec = _with_base_models(spec)
    spec = with_costs(spec, document)
    if spec.format > 1:
        spec = _with_step_sizes(spec)
    Validation(spec, document).all()
    return SpecFile(spec, document)


def _with_short_names(given: Any) -> Any:
    """Add a network to each model that has none, if the model's name is a short name of a network.

    Return all models of the spec.
    """
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
    """Replace each model that refers to another model (`model: …`) by a copy of this other model.

    The copy has the transform of the referring model, and its family if it gives one.
    """
    models = {}
    for name, model in spec.models.items():
        own = {"transform": model.transform} | ({} if model.family is None else {"family": model.family})
        models[name] = model if model.model is None else spec.models[model.model].model_copy(update=own)
    return spec.model_copy(update={"models": models})


def _with_presets(document: Document, given: Any) -> Any:
    """Return the attacks of a spec, each completed by the keys of its preset.

    The key `preset` names the preset. Without this key, it is the preset with the name of the attack, if there is one.
    Raises StudyError for an attack that is no mapping, and for an unknown preset.
    """
    if not isinstance(given, dict):
        return given
    attacks = {}
    for name, entry in given.items():
        place: Place = ("attacks", name)
        keys = {} if entry is None else entry
        if not isinstance(keys, dict):
            raise StudyError(
                f"an attack must be a mapping, but '{name}' is {entry!r}",
                where=document.where(place),
                accepted=f"`{name}: {{}}`, or a mapping with the keys of a recipe",
            )
        keys = dict(keys)
        own = name if presets.preset(name) else None
        preset = keys.pop("preset", own)
        if preset is None and not keys.keys() & {"step", "start", "program", "external", "python", *PRECOMPUTED_KEYS}:
            if own is not None:
                raise StudyError(
                    f"`preset: null` means that '{name}' has no preset, but the attack has no `step` either",
                    where=document.where((*place, "preset")),
                    todo=f"remove `preset: null`, so that '{name}' has the numbers of the preset '{name}'; or give it "
                    "`step`",
                )
            raise unknown_preset(
                name,
                what=f"'{name}' is not the name of a preset, and the attack has neither `preset` nor `step`",
                where=document.where(place),
                todo=f"write `{name}: {{preset: <preset>}}`",
            )
        if preset is not None and (not isinstance(preset, str) or presets.preset(preset) is None):
            raise unknown_preset(str(preset), where=document.where((*place, "preset")))
        attacks[name] = keys if preset is None else presets.keys_of(preset, keys)
    return attacks


def _with_step_sizes(spec: Spec) -> Spec:
    """Fill in the step sizes that follow from a budget, so that the resolved spec shows every number of an attack."""
    attacks = {
        name: attack.model_copy(update={"step_size": size})
        if attack.step_size is None and (size := attack.automatic_step_size) is not None
        else attack
        for name, attack in spec.attacks.items()
    }
    return spec.model_copy(update={"attacks": attacks})


def _with_implied_attacks(spec: Spec) -> Spec:
    """Add each preset that an experiment, a probe or a matched budget names, but that has no entry in `attacks`."""
    attacks = dict(spec.attacks)
    wanted = [name for experiment in spec.experiments.values() for name in experiment.attacks]
    wanted += [name for probe in spec.geometry.values() for name in probe.attacks]
    while wanted:
        name = wanted.pop(0)
        if name not in attacks and presets.preset(name):
            attacks[name] = Attack.model_validate(presets.keys_of(name, {}))
        reference = attacks[name].budget.to if name in attacks else None
        if reference is not None and reference not in attacks and presets.preset(reference):
            wanted.append(reference)
    return spec.model_copy(update={"attacks": attacks})
