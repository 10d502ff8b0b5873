"""Errors, raised before any work, for what an attack cannot do: unknown names, ensembles, targeted goals, norms."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

from study.attacks.external import arguments as held
from study.errors import StudyError, names


def known(name: str, attack: str, attacks: Collection[str]) -> None:
    """Raise StudyError if the library does not have the attack."""
    if attack not in attacks:
        library = name.partition(":")[0]
        raise StudyError(
            f"there is no attack '{attack}' in {library}",
            accepted=names(attacks, attack, most=120),
            todo=f"correct the name after `{library}:`",
        )


def one_source(name: str, sources: int) -> None:
    """Raise StudyError if there are several sources. For attacks that take one model."""
    if sources != 1:
        raise StudyError(
            f"{name} attacks one model, and this attack run has {sources} sources",
            accepted="one source, or an attack of TransferAttack or a python: function, which take several models",
            todo="use `sources: each` in the attack's experiments",
        )


def goal(name: str, *, targeted: bool, supported: bool) -> None:
    """Raise StudyError for a targeted goal if the attack does not support it."""
    if targeted and not supported:
        raise StudyError(
            f"{name} has no targeted form",
            accepted="goal: untargeted",
            todo="remove the targeted goal from the attack's experiments",
        )


def norm(
    name: str, target: Callable[..., Any], arguments: Mapping[str, Any], epsilon: float | None, *, linf: bool
) -> None:
    """Raise StudyError if the attack needs a budget of its own, and the arguments have none.

    That is the case if the study has an `epsilon`, which is an L-infinity norm, and the attack's budget has another
    norm.
    """
    budget = held.budget_name(target)
    if not linf and epsilon is not None and budget is not None and budget not in arguments:
        raise StudyError(
            f"the `{budget}` of {name} is not an L-infinity norm, so it cannot follow from the study's epsilon",
            accepted=f"`{budget}` among the arguments, in the attack's own norm for images in 0..1",
            todo=f"add `{budget}`; images beyond the study's epsilon are projected",
        )


def unknown_layers(name: str, network: str, accepted: Collection[str]) -> StudyError:
    """The error for an attack whose library records no layers for this network."""
    return StudyError(
        f"{name} has no layers on record for the network {network}",
        accepted=f"the argument {' or '.join(accepted)}, with the name of a layer of this network",
        todo=f"add {' or '.join(accepted)} to the arguments",
    )
