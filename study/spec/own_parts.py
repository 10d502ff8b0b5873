"""The parts of a spec that are code in a user's own files: parts of attacks, defences, whole attacks, networks.

This module reads the text and the digests of these files. With the user's permission, it runs the files that have
components.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from study.attacks import own_code
from study.attacks.part import Part
from study.attacks.recipe import Attack
from study.errors import StudyError
from study.models.reference import Model
from study.reproducibility import user_files
from study.reproducibility.user_files import UserFile
from study.spec.schema import Spec
from study.spec.spec_file import SpecFile


@dataclass(frozen=True)
class UserCode:
    """The user's own files as text, so that workers on other machines need no copy of the files.

    An object can be pickled.

    Attributes:
        components: Pairs (kind, file) for the components of attacks and for the defences. The driver has run these
            files, and workers load them before their first attack.
        functions: Files with whole attacks and networks. A worker runs such a file when it runs the attack, or when it
            loads the model.
    """

    components: tuple[tuple[str, UserFile], ...] = ()
    functions: tuple[UserFile, ...] = ()


NO_CODE = UserCode()


def with_code(file: SpecFile, *, allow_code: bool) -> tuple[SpecFile, UserCode]:
    """Run the user's files that have components. Return the completed spec, and all of the user's files.

    The completed spec has the declarations of the components, such as the number of copies of a view. Files that have
    functions are not run here. Without permission (`allow_code`), they are not even read. Raises StudyError, with the
    place in the spec, if the permission is missing, if a file cannot be run or lacks the component, if parameters are
    wrong, or if parts do not fit together.
    """
    found: dict[tuple[str, str], UserFile] = {}
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
    code = UserCode(
        tuple((kind, own) for (kind, _), own in found.items()),
        functions(file.spec, file.where) if allow_code else (),
    )
    if not found:
        return file, code
    spec = file.spec.model_copy(update={"attacks": attacks, "models": models})
    return SpecFile(spec, file.document), code


def functions(spec: Spec, where: Callable[..., str]) -> tuple[UserFile, ...]:
    """Read the users' files whose functions are attacks or networks of a spec, without running them.

    `where` returns the place of a key in the spec. Raises StudyError, with this place, if a file does not exist.
    """
    named = [
        (attack.external.attack, attack.external.external, where("attacks", name))
        for name, attack in spec.attacks.items()
        if attack.external is not None and attack.external.library == "python"
    ]
    named += [
        (model.name, str(model.network), where("models", name))
        for name, model in spec.models.items()
        if model.zoo == "python"
    ]
    found: dict[str, UserFile] = {}
    for text, reference, place in named:
        if text in found or not user_files.in_file(text):
            continue
        try:
            found[text] = user_files.read(text, reference)
        except StudyError as error:
            raise error.located(place) from None
    return tuple(found.values())


def with_digests(spec: Spec, where: Callable[..., str]) -> Spec:
    """Return the spec with the digests of users' files and the versions of libraries. The files are read, but not run.

    `where` returns the place of a key in the spec. Raises StudyError, with this place, if a file or a library does not
    exist.
    """
    if spec.visibility.lpips is not None:
        spec = spec.model_copy(update={"visibility": spec.visibility.with_digests(where)})
    own = any(attack.external or any(part.python for part in attack.parts) for attack in spec.attacks.values())
    if not own and not any(
        one.python for model in spec.models.values() if model.transform for one in model.transform.parts
    ):
        return spec
    attacks = {}

    def digested_at(place: str) -> Callable[[Part], Part]:
        def digested(part: Part) -> Part:
            assert part.python is not None, "only parts in a user's file get a digest"
            return part.model_copy(update={"sha256": own_code.read(part.python, place).digest})

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
    """Return the model with `change` applied to each part of its transform that is in a user's file."""
    if model.transform is None or not any(one.python for one in model.transform.parts):
        return model
    return model.model_copy(update={"transform": model.transform.replaced(change)})


def _replaced(attack: Attack, change: Callable[[Part], Part]) -> Attack:
    """Return the attack with `change` applied to each of its parts that is in a user's file."""
    update: dict[str, Any] = {}
    for key, value in attack:
        if isinstance(value, Part) and value.python is not None:
            update[key] = change(value)
        elif isinstance(value, tuple) and any(isinstance(one, Part) and one.python is not None for one in value):
            update[key] = tuple(change(one) if isinstance(one, Part) and one.python else one for one in value)
    rule = attack.budget.rule
    if rule is not None and rule.python is not None:
        update["budget"] = attack.budget.model_copy(update={"rule": change(rule)})
    return attack.model_copy(update=update) if update else attack
