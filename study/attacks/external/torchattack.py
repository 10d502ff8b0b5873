"""Adapter for attacks of the package torchattack (spencerwooo). Some attacks find layers by the network's name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from study.attacks.external import arguments as held
from study.attacks.external import installed, limits
from study.attacks.external.call import ExternalCall

if TYPE_CHECKING:
    from torch import Tensor

_OURS = ("model", "normalize", "device", "targeted")
_L2 = ("PGDL2",)


def version(attack: str) -> str:
    """Return the installed version of torchattack."""
    return installed.version("torchattack")


def attacks() -> Sequence[str]:
    """Return the names of the attacks in the library's registry."""
    return sorted(installed.package("torchattack").ATTACK_REGISTRY)


def home(attack: str) -> Path:
    """Return the folder of the package torchattack."""
    return installed.folder("torchattack")


def check(attack: str, arguments: Mapping[str, Any], *, targeted: bool, sources: int, epsilon: float | None) -> None:
    """Raise StudyError in the cases that `Adapter.check` lists.

    The attacks take one model, and some do not support a targeted goal.
    """
    name = f"torchattack:{attack}"
    limits.known(name, attack, attacks())
    target = _class(attack)
    held.check(name, target, arguments, ours=_OURS)
    limits.one_source(name, sources)
    limits.goal(name, targeted=targeted, supported="targeted" in held.accepted(target))
    limits.norm(name, target, arguments, epsilon, linf=attack not in _L2)


def craft(call: ExternalCall) -> Tensor:
    """Run the attack, and return its images (N, C, H, W).

    The attack gets the network itself as the model, and the preprocessing as `normalize`.
    """
    library, target = installed.package("torchattack"), _class(call.attack)
    given = held.with_budget(target, call.arguments, call.epsilon, linf=call.attack not in _L2)
    known = held.accepted(target)
    if "targeted" in known:
        given["targeted"] = call.targeted
    if "model" in known:
        first, network = call.models[0]
        # Some attacks choose their layers by the network's name. They read it from the library's wrapper `AttackModel`.
        given |= {"model": library.AttackModel(call.networks[0], network, first, first), "normalize": first}
    try:
        attack = target(device=call.device, **given)
    except KeyError as error:
        if error.args != (call.networks[0],):
            raise
        layers = [one for one in known if one.endswith("_cfg")]
        raise limits.unknown_layers(f"torchattack:{call.attack}", call.networks[0], layers) from error
    call.notes.extend(held.overridden(attack, given))
    images: Tensor = attack(call.images, call.labels)
    return images


def _class(attack: str) -> Any:
    return installed.package("torchattack").ATTACK_REGISTRY[attack]
