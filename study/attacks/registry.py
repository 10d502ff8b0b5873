"""The components with names: the project's own, those of installed packages, and those that a user's script registers.

Components are parts of attacks, or defences in front of targets. A package provides components by an entry point of the
group `study.components`. The entry point names a module; the import of this module registers its components.
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
"""The base class of each kind of component, by kind: the kinds of an attack's components, and defences."""

_registered: dict[tuple[str, str], type[Component]] = {}

_Class = TypeVar("_Class", bound=type[Component])


def register(component: _Class) -> _Class:
    """Register the class of a component by its kind and name, and return the class. Usable as a decorator.

    Raises ValueError if the class has no kind, does not define a name, or if another class has this kind and name.
    """
    kind, name = str(getattr(component, "kind", "")), component.__dict__.get("name")
    if kind not in ALL_KINDS or not issubclass(component, Component) or not isinstance(name, str):
        raise ValueError(
            f"{component.__name__} needs a base class of study.attacks.kinds or study.defences.kinds, and a `name` of "
            "its own"
        )
    known = _registered.get((kind, name))
    if known is not None and (known.__module__, known.__qualname__) != (component.__module__, component.__qualname__):
        raise ValueError(f"the {kind} '{name}' exists already: {known.__module__}.{known.__qualname__}")
    _registered[kind, name] = component
    return component


def unregister(component: type[Component]) -> None:
    """Remove a component that `register` has added."""
    _registered.pop((component.kind, component.name), None)


def find(kind: str, name: str) -> type[Component] | None:
    """Return the class of the component of this kind and name; None if there is none.

    Raises StudyError if an installed package's components cannot be imported.
    """
    _import_own()
    if (kind, name) not in _registered:
        _import_packages()
    return _registered.get((kind, name))


def known(kind: str) -> list[str]:
    """Return the names of all components of a kind, in alphabetical order."""
    _import_own()
    _import_packages()
    return sorted(name for one, name in _registered if one == kind)


def all_components() -> list[type[Component]]:
    """Return the classes of all registered components, sorted by kind and name."""
    _import_own()
    _import_packages()
    return [_registered[key] for key in sorted(_registered)]


def parameters_of(name: str, *, defence: bool = False) -> list[str]:
    """Return the names of a component's parameters; an empty list if there is no such component.

    `name` is the name of a component of attacks or, with `defence`, of a defence.
    """
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
