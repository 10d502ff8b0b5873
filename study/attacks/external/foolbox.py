"""Adapter for attacks of the package foolbox. If a call has a budget, foolbox clips the images to this budget."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from study.attacks.external import arguments as held
from study.attacks.external import installed, limits
from study.attacks.external.call import ExternalCall
from study.attacks.external.failures import failure
from study.errors import StudyError, names

if TYPE_CHECKING:
    from torch import Tensor

_EPSILON, _DISTANCE = "epsilon", "distance"
_DISTANCES = ("l0", "l1", "l2", "linf")


def version(attack: str) -> str:
    """Return the installed version of foolbox."""
    return installed.version("foolbox")


def attacks() -> Sequence[str]:
    """Return the names of the attack classes in `foolbox.attacks`, including short names such as `PGD`."""
    library = installed.package("foolbox").attacks
    return sorted(
        name
        for name, value in vars(library).items()
        if inspect.isclass(value) and issubclass(value, library.Attack) and not inspect.isabstract(value)
    )


def home(attack: str) -> Path:
    """Return the folder of the package foolbox."""
    return installed.folder("foolbox")


def check(attack: str, arguments: Mapping[str, Any], *, targeted: bool, sources: int, epsilon: float | None) -> None:
    """Raise StudyError in the cases that `Adapter.check` lists.

    `arguments` are the arguments of the attack's class. They may also have the key `epsilon`: the budget of the call,
    in the attack's own norm. Without this key, an attack in L-infinity gets the study's budget, the parameter
    `epsilon`. The argument `distance` is l0, l1, l2 or linf.
    """
    name = f"foolbox:{attack}"
    limits.known(name, attack, attacks())
    limits.one_source(name, sources)
    given = {key: value for key, value in arguments.items() if key != _EPSILON}
    held.check(name, _class(attack), given, ours=())
    built = _built(name, attack, arguments)
    budget = _budget(name, built, arguments, epsilon)
    if targeted:
        limits.goal(name, targeted=True, supported=_has_targeted_form(name, built, budget))


def craft(call: ExternalCall) -> Tensor:
    """Run the attack, and return its images (N, C, H, W), clipped to the budget if there is one.

    The criterion follows from the goal: misclassification, or classification as the target label.
    """
    library, name = installed.package("foolbox"), f"foolbox:{call.attack}"
    attack = _built(name, call.attack, call.arguments)
    budget = _budget(name, attack, call.arguments, call.epsilon)
    model = library.PyTorchModel(call.models[0], bounds=(0, 1), device=call.device)
    if call.targeted:
        criterion = library.criteria.TargetedMisclassification(call.labels)
    else:
        criterion = library.criteria.Misclassification(call.labels)
    _, clipped, _ = attack(model, call.images, criterion, epsilons=budget)
    images: Tensor = clipped
    return images


def _built(name: str, attack: str, arguments: Mapping[str, Any]) -> Any:
    given = {key: value for key, value in arguments.items() if key != _EPSILON}
    if _DISTANCE in given:
        if given[_DISTANCE] not in _DISTANCES:
            raise StudyError(
                f"{name} has no distance {given[_DISTANCE]!r}", accepted=names(_DISTANCES, given[_DISTANCE])
            )
        given[_DISTANCE] = getattr(installed.package("foolbox").distances, given[_DISTANCE])
    try:
        return _class(attack)(**given)
    except Exception as error:
        raise failure(name, error) from error


def _budget(name: str, attack: Any, arguments: Mapping[str, Any], epsilon: float | None) -> float | None:
    """Return the budget of the call in the attack's norm, or None if the attack needs no budget and has none.

    The budget is `epsilon` of the arguments. Without this argument, an attack in L-infinity gets the study's `epsilon`.
    An attack that searches the smallest perturbation needs no budget. Raises StudyError if another attack has no
    budget, or if an attack has no distance.
    """
    library = installed.package("foolbox")
    own: float | None = arguments.get(_EPSILON)
    if own is not None:
        return own
    try:
        linf = attack.distance == library.distances.linf
    except ValueError:
        raise StudyError(
            f"{name} needs a distance",
            accepted=f"distance: {' or '.join(_DISTANCES)}",
            todo="add `distance` to the arguments",
        ) from None
    except AttributeError as error:
        # The classes of two attacks, PointwiseAttack and SpatialAttack, have no distance at all.
        raise StudyError(
            f"{name} has no distance in foolbox {version(name)}, and cannot run here",
            accepted="the other attacks of foolbox",
            todo="choose another attack",
        ) from error
    if linf and epsilon is not None:
        return epsilon
    if isinstance(attack, library.attacks.base.FixedEpsilonAttack):
        raise StudyError(
            f"{name} needs a budget in its norm, {attack.distance}, for images in 0..1",
            accepted="`epsilon` among the arguments; an attack in L-infinity may have the study's budget instead",
            todo="add `epsilon` to the arguments; images beyond the study's epsilon are projected",
        )
    return None


def _has_targeted_form(name: str, attack: Any, budget: float | None) -> bool:
    """Return whether the attack accepts a targeted criterion.

    The attack runs on a model that raises `_Reached`. Attacks check the criterion before they call the model, so an
    attack without a targeted form raises ValueError in place of `_Reached`. Raises StudyError if the attack, called
    `name` in the message, fails otherwise, as with an argument of a wrong type.
    """
    library = installed.package("foolbox")
    model = library.PyTorchModel(_Stop().eval(), bounds=(0, 1), device="cpu")
    criterion = library.criteria.TargetedMisclassification(torch.zeros(1, dtype=torch.int64))
    try:
        attack(model, torch.zeros(1, 3, 8, 8), criterion, epsilons=budget)
    except _Reached:
        return True
    except ValueError as error:
        return "criterion" not in str(error)
    except Exception as error:
        raise failure(name, error, home(name)) from error
    return True


class _Reached(Exception):
    pass


class _Stop(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        raise _Reached


def _class(attack: str) -> Any:
    return getattr(installed.package("foolbox").attacks, attack)
