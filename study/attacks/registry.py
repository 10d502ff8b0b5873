"""The components that specs can name: the project's own, those of installed packages, and those of a user's file.

They are parts of attacks, and defences in front of targets. A package brings components by an entry point of the group
`study.components`, which names a module: importing it registers its components.
"""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
from collections.abc import Mapping
from typing import TypeVar

from study.attacks.component import Component
from study.attacks.kinds import KINDS
from study.defences.kinds import Defence
from study.errors import StudyError

GROUP = "study.components"
_OWN = ("study.attacks.components", "study.defences.components")

ALL_KINDS: Mapping[str, type[Component]] = {**KINDS, Defence.kind: Defence}
"""The kinds of an attack's components, and that of defences."""

_registered: dict[tuple[str, str], type[Component]] = {}

_Class = TypeVar("_Class", bound=type[Component])


def register(component: _Class) -> _Class:
    """Make a component known by its kind and name; used as a decorator of its class.

    Raises ValueError if it has no kind or name of its own, or if another component has this name.
    """
    kind, name = str(getattr(component, "kind", "")), component.__dict__.get("name")
    if kind not in ALL_KINDS or not issubclass(component, Component) or not isinstance(name, str):
        raise ValueError(
            f"{component.__name__} needs a base class of study.attacks.kinds or study.defences.kinds, and a `name` of "
            "its own"
        )
    known = _registered.get((kind, name))
    if known is not None and (known.__module__, known.__qualname__) != (component.__module__, component.__qualname__):
        raise ValueError(f"{known.__module__}.{known.__qualname__} is the {kind} '{name}' already")
    _registered[kind, name] = component
    return component


def unregister(component: type[Component]) -> None:
    """Forget a component that `register` has made known."""
    _registered.pop((component.kind, component.name), None)


def find(kind: str, name: str) -> type[Component] | None:
    """Return the component of this kind and name; None if there is none.

    Raises StudyError if an installed package's components cannot be imported.
    """
    _import_own()
    if (kind, name) not in _registered:
        _import_packages()
    return _registered.get((kind, name))


def known(kind: str) -> list[str]:
    """The names of all components of a kind, in alphabetical order."""
    _import_own()
    _import_packages()
    return sorted(name for one, name in _registered if one == kind)


def all_components() -> list[type[Component]]:
    """All registered components, by kind and name."""
    _import_own()
    _import_packages()
    return [_registered[key] for key in sorted(_registered)]


def parameters_of(name: str, *, defence: bool = False) -> list[str]:
    """The parameters of the part of an attack of this name, or of the defence; none if there is no such component."""
    kinds = (Defence.kind,) if defence else KINDS
    found = next((one for one in all_components() if one.name == name and one.kind in kinds), None)
    return [] if found is None else list(found.model_fields)


def _import_own() -> None:
    for module in _OWN:
        importlib.import_module(module)


@functools.cache
def _import_packages() -> None:
    for entry in importlib.metadata.entry_points(group=GROUP):
        try:
            entry.load()
        except Exception as error:
            package = entry.dist.name if entry.dist is not None else entry.value
            raise StudyError(
                f"the components of the package {package} cannot be imported: {type(error).__name__}: {error}",
                where=f"entry point {entry.name} = {entry.value}",
                todo=f"repair or uninstall {package}",
            ) from error
