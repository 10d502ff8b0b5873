"""The components of a spec that lie in a user's own files: their digests, permission to run them, their text.

They are parts of attacks, and defences in front of targets.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from study.attacks import own_code
from study.attacks.own_code import OwnFile
from study.attacks.part import Part
from study.attacks.recipe import Attack
from study.errors import StudyError
from study.models.reference import Model
from study.spec.schema import Spec
from study.spec.spec_file import SpecFile

Code = tuple[tuple[str, OwnFile], ...]
"""Kinds and files of components, for workers to load."""


def with_code(file: SpecFile, *, allow_code: bool) -> tuple[SpecFile, Code]:
    """Load the components of users' files, and return the spec with what they declare, and their files.

    Raises StudyError, with the place in the spec: without permission, if a file cannot be run or has no such
    component, for wrong parameters, and for parts that do not fit together.
    """
    found: dict[tuple[str, str], OwnFile] = {}
    attacks: dict[str, Attack] = {}

    def sealed_at(where: str) -> Callable[[Part], Part]:
        def sealed(part: Part) -> Part:
            whole, own = own_code.sealed(part, where, allowed=allow_code)
            found[part.kind, own.reference] = own
            return whole

        return sealed

    for name, attack in file.spec.attacks.items():
        where = file.where("attacks", name)
        attacks[name] = _replaced(attack, sealed_at(where))
        broken = next(attacks[name].conflicts(), None)
        if broken is not None:
            raise StudyError(broken, where=where)
    models = {
        name: _behind(model, sealed_at(file.where("models", name, "transform")))
        for name, model in file.spec.models.items()
    }
    if not found:
        return file, ()
    spec = file.spec.model_copy(update={"attacks": attacks, "models": models})
    return SpecFile(spec, file.document), tuple((kind, own) for (kind, _), own in found.items())


def with_digests(spec: Spec, where: Callable[..., str]) -> Spec:
    """Return the spec with the digests of users' files, which are read and not run, and the versions of libraries.

    Raises StudyError, with the place in the spec, if a file or a library does not exist.
    """
    own = any(attack.external or any(part.python for part in attack.parts) for attack in spec.attacks.values())
    if not own and not any(
        one.python for model in spec.models.values() if model.transform for one in model.transform.parts
    ):
        return spec
    attacks = {}

    def digested_at(place: str) -> Callable[[Part], Part]:
        def digested(part: Part) -> Part:
            assert part.python is not None, "only parts in a file are asked"
            return part.model_copy(update={"sha256": own_code.read(part.python, place).sha256})

        return digested

    models = {name: _behind(model, digested_at(where("models", name))) for name, model in spec.models.items()}
    for name, attack in spec.attacks.items():
        place = where("attacks", name)
        attacks[name] = _replaced(attack, digested_at(place))
        if attack.external is not None:
            try:
                version = attack.external.installed_version()
            except StudyError as error:
                raise error.located(place) from None
            external = attack.external.model_copy(update={"version": version})
            attacks[name] = attack.model_copy(update={"external": external})
    return spec.model_copy(update={"attacks": attacks, "models": models})


def _behind(model: Model, change: Callable[[Part], Part]) -> Model:
    """The model with another part in place of each part in a user's file in front of it."""
    if model.transform is None or not any(one.python for one in model.transform.parts):
        return model
    return model.model_copy(update={"transform": model.transform.replaced(change)})


def _replaced(attack: Attack, change: Callable[[Part], Part]) -> Attack:
    """The attack with another part in place of each part in a user's file."""
    update: dict[str, Any] = {}
    for key, value in attack:
        if isinstance(value, Part) and value.python is not None:
            update[key] = change(value)
        elif isinstance(value, tuple) and any(isinstance(one, Part) and one.python is not None for one in value):
            update[key] = tuple(change(one) if isinstance(one, Part) and one.python else one for one in value)
    return attack.model_copy(update=update) if update else attack
