"""Check the arguments of an external attack against the signature of its class or function."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

from study.errors import StudyError, names

EPSILONS = ("eps", "epsilon", "max_epsilon")
"""Names of the argument for an L-infinity budget in the libraries."""


def accepted(target: Callable[..., Any]) -> dict[str, bool]:
    """Return the arguments of a function or class by name, each with True if the argument is required.

    For a class, the result has the arguments of its `__init__`. If this `__init__` passes its `**kwargs` on, the result
    also has the arguments of the `__init__` of the base classes. Names that only `**kwargs` accepts are left out.
    """
    found: dict[str, bool] = {}
    for function in _called(target):
        for one in list(inspect.signature(function).parameters.values()):
            if one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY):
                found.setdefault(one.name, one.default is one.empty)
    found.pop("self", None)
    return found


def check(name: str, target: Callable[..., Any], given: Mapping[str, Any], *, ours: Collection[str]) -> None:
    """Raise StudyError if `target` does not take an argument in `given`, or if a required argument is missing.

    `name` is the name of the attack in messages. `ours` are the arguments that this program sets itself: `given` must
    not have them.
    """
    known = accepted(target)
    free = [one for one in known if one not in ours]
    for argument in given:
        if argument in ours:
            raise StudyError(
                f"the argument '{argument}' of {name} is set by the study itself",
                accepted=names(free, argument, most=40),
                todo=f"remove `{argument}` from the arguments",
            )
        if argument not in free:
            raise StudyError(
                f"{name} takes no argument '{argument}'",
                accepted=names(free, argument, most=40),
                todo="correct the arguments of the attack",
            )
    missing = [one for one in free if known[one] and one not in given]
    if missing:
        raise StudyError(
            f"{name} needs the argument{'s' * (len(missing) > 1)} {' and '.join(repr(one) for one in missing)}",
            accepted=names(free, most=40),
            todo="add the missing arguments to `arguments`; an attack that needs Python objects cannot be in a spec",
        )


def with_budget(
    target: Callable[..., Any], given: Mapping[str, Any], epsilon: float | None, *, linf: bool = True
) -> dict[str, Any]:
    """Return the arguments `given`, with the study's `epsilon` added as the attack's budget.

    `epsilon` is for images in 0..1. The arguments are returned unchanged in four cases: the arguments already have a
    budget; `target` takes no budget; `epsilon` is None; or the attack's norm is not L-infinity (`linf` is False).
    """
    name = budget_name(target)
    if name is None or epsilon is None or name in given or not linf:
        return dict(given)
    return {**given, name: epsilon}


def budget_name(target: Callable[..., Any]) -> str | None:
    """Return the name of the argument of `target` that is the budget, or None if `target` takes no budget."""
    known = accepted(target)
    return next((name for name in EPSILONS if name in known), None)


def overridden(attack: object, given: Mapping[str, Any]) -> Iterator[str]:
    """Yield a sentence for each number in `given` that the built object `attack` has replaced by another value."""
    for name, value in given.items():
        held = getattr(attack, name, value)
        if isinstance(value, bool | int | float) and isinstance(held, bool | int | float) and held != value:
            yield f"the argument {name} is {value:g}, but the attack uses {name} = {held:g}"


def _called(target: Callable[..., Any]) -> Iterator[Callable[..., Any]]:
    if not inspect.isclass(target):
        yield target
        return
    for base in target.__mro__:
        function = vars(base).get("__init__")
        if function is None or base is object:
            continue
        yield function
        if not _passes_on(function):
            return


def _passes_on(function: Callable[..., Any]) -> bool:
    """Return whether a function passes its own `**kwargs` to another function.

    False if the source code of the function cannot be read.
    """
    parameters = inspect.signature(function).parameters.values()
    rest = next((one.name for one in parameters if one.kind is one.VAR_KEYWORD), None)
    if rest is None:
        return False
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    except (OSError, SyntaxError):
        return False
    return any(
        keyword.arg is None and isinstance(keyword.value, ast.Name) and keyword.value.id == rest
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        for keyword in node.keywords
    )
