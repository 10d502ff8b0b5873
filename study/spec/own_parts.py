"""The components of a spec in a user's own files: their digests, the permission to run them, and their source text."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from study.attacks import own_code
from study.attacks.own_code import OwnFile
from study.attacks.part import Part
from study.attacks.recipe import Attack
from study.errors import StudyError
from study.spec.schema import Spec
from study.spec.spec_file import SpecFile

Code = tuple[tuple[str, OwnFile], ...]
"""The kind and the file of each component, for workers to load."""


def with_code(file: SpecFile, *, allow_code: bool) -> tuple[SpecFile, Code]:
    """Load the components in users' files. Returns the spec with the components' declarations, and the files.

    Raises StudyError, with the place in the spec, without permission (`allow_code`), if a file cannot be run or has no
    such component, for wrong parameters, and if parts of an attack do not fit together.
    """
    found: dict[tuple[str, str], OwnFile] = {}
    attacks: dict[str, Attack] = {}
    for name, attack in file.spec.attacks.items():
        where = file.where("attacks", name)

        def sealed(part: Part, where: str = where) -> Part:
            whole, own = own_code.sealed(part, where, allowed=allow_code)
            found[part.kind, own.reference] = own
            return whole

        attacks[name] = _replaced(attack, sealed)
        broken = next(attacks[name].conflicts(), None)
        if broken is not None:
            raise StudyError(broken, where=where)
    if not found:
        return file, ()
    spec = file.spec.model_copy(update={"attacks": attacks})
    return SpecFile(spec, file.document), tuple((kind, own) for (kind, _), own in found.items())


def with_digests(spec: Spec, where: Callable[..., str]) -> Spec:
    """Return the spec with the digests of users' files and the versions of libraries. It reads the files only.

    Raises StudyError, with the place in the spec, if a file or a library does not exist.
    """
    if not any(attack.external or any(part.python for part in attack.parts) for attack in spec.attacks.values()):
        return spec
    attacks = {}
    for name, attack in spec.attacks.items():
        place = where("attacks", name)

        def digested(part: Part, place: str = place) -> Part:
            assert part.python is not None, "only parts in a file are asked"
            return part.model_copy(update={"sha256": own_code.read(part.python, place).sha256})

        attacks[name] = _replaced(attack, digested)
        if attack.external is not None:
            try:
                version = attack.external.installed_version()
            except StudyError as error:
                raise error.located(place) from None
            external = attack.external.model_copy(update={"version": version})
            attacks[name] = attack.model_copy(update={"external": external})
    return spec.model_copy(update={"attacks": attacks})


def _replaced(attack: Attack, change: Callable[[Part], Part]) -> Attack:
    """The attack with `change` applied to each of its parts that is in a user's file."""
    update: dict[str, Any] = {}
    for key, value in attack:
        if isinstance(value, Part) and value.python is not None:
            update[key] = change(value)
        elif isinstance(value, tuple) and any(isinstance(one, Part) and one.python is not None for one in value):
            update[key] = tuple(change(one) if isinstance(one, Part) and one.python else one for one in value)
    return attack.model_copy(update=update) if update else attack
