"""Checks, before any work, that an attack exists and supports the number of sources, the goal and the norm."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

from study.attacks.external import arguments as held
from study.errors import StudyError, names


def known(name: str, attack: str, attacks: Collection[str]) -> None:
    """Raise StudyError if `attack` is not one of the library's `attacks`. `name` is `<library>:<attack>`."""
    if attack not in attacks:
        library = name.partition(":")[0]
        raise StudyError(
            f"there is no attack '{attack}' in {library}",
            accepted=names(attacks, attack, most=120),
            todo=f"correct the name after `{library}:`",
        )


def one_source(name: str, sources: int) -> None:
    """Raise StudyError if the number of source models is not 1. Call this function for attacks that take one model."""
    if sources != 1:
        raise StudyError(
            f"{name} attacks one model, and this attack run has {sources} sources",
            accepted="one source; only `transferattack:` attacks and `python:` functions take several models",
            todo="use `sources: each` in the attack's experiments",
        )


def goal(name: str, *, targeted: bool, supported: bool) -> None:
    """Raise StudyError if the goal is targeted, and the attack does not support a targeted goal."""
    if targeted and not supported:
        raise StudyError(
            f"{name} has no targeted form",
            accepted="goal: untargeted",
            todo="remove the targeted goal from the attack's experiments",
        )


def norm(
    name: str, target: Callable[..., Any], arguments: Mapping[str, Any], epsilon: float | None, *, linf: bool
) -> None:
    """Raise StudyError if the study's epsilon cannot be the attack's budget, and the arguments have no budget.

    The study's `epsilon` is an L-infinity norm. This epsilon cannot be the budget of an attack with another norm
    (`linf` is False). No error is raised if the study has no epsilon, or if `target` takes no budget.
    """
    budget = held.budget_name(target)
    if not linf and epsilon is not None and budget is not None and budget not in arguments:
        raise StudyError(
            f"the `{budget}` of {name} is not an L-infinity norm, so the study's epsilon cannot set this argument",
            accepted=f"`{budget}` among the arguments, in the attack's own norm for images in 0..1",
            todo=f"add `{budget}`; images beyond the study's epsilon are projected",
        )


def unknown_layers(name: str, network: str, accepted: Collection[str]) -> StudyError:
    """Return the StudyError for an attack whose library records no layers for the network `network`.

    `accepted` are the names of the arguments that set the layers instead.
    """
    return StudyError(
        f"{name} has no layers on record for the network {network}",
        accepted=f"the argument {' or '.join(accepted)}, with the name of a layer of this network",
        todo=f"add {' or '.join(accepted)} to the arguments",
    )
