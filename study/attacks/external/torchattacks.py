"""Adapter for attacks of the package torchattacks (Harry24k). Each attack takes one model of images in 0..1."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from study.attacks.external import arguments as held
from study.attacks.external import installed, limits
from study.attacks.external.call import ExternalCall
from study.attacks.external.failures import failure

if TYPE_CHECKING:
    from torch import Tensor

_OURS = ("model", "device")
_L2 = ("PGDL2", "PGDRSL2")
_TARGETED = "targeted"


def version(attack: str) -> str:
    """Return the installed version of torchattacks."""
    return installed.version("torchattacks")


def attacks() -> Sequence[str]:
    """Return the names of the library's attacks. Wrappers, which take other attacks and data, are left out."""
    library = installed.package("torchattacks")
    wrappers = getattr(library, "__wrapper__", ())
    return sorted(name for name in library.__all__ if name not in wrappers)


def home(attack: str) -> Path:
    """Return the folder of the package torchattacks."""
    return installed.folder("torchattacks")


def check(attack: str, arguments: Mapping[str, Any], *, targeted: bool, sources: int, epsilon: float | None) -> None:
    """Raise StudyError in the cases that `Adapter.check` lists.

    The attacks take one model, and some do not support a targeted goal. Also raises StudyError if the attack cannot be
    built with the arguments.
    """
    name = f"torchattacks:{attack}"
    limits.known(name, attack, attacks())
    target = _class(attack)
    held.check(name, target, arguments, ours=_OURS)
    limits.one_source(name, sources)
    limits.norm(name, target, arguments, epsilon, linf=_linf(attack, arguments))
    try:
        built = target(_Nothing(), **arguments)
    except Exception as error:
        raise failure(name, error, home(attack)) from error
    limits.goal(name, targeted=targeted, supported=_TARGETED in built.supported_mode)


def craft(call: ExternalCall) -> Tensor:
    """Run the attack, and return its images (N, C, H, W).

    For a targeted goal, the attack gets the target labels as its labels.
    """
    target = _class(call.attack)
    linf = _linf(call.attack, call.arguments)
    given = held.with_budget(target, call.arguments, call.epsilon, linf=linf)
    if "seed" in held.accepted(target) and given.get("seed") is None:
        # Some attacks use the time as their seed if they get no seed.
        given["seed"] = call.seed
    attack = target(call.models[0], **given)
    attack.set_device(call.device)
    if call.targeted:
        attack.set_mode_targeted_by_label(quiet=True)
    call.notes.extend(held.overridden(attack, given))
    images: Tensor = attack(call.images, call.labels)
    return images


class _Nothing(nn.Module):
    """A model that is never called. `check` builds an attack with it, and reads the goals that the attack supports."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter()


def _class(attack: str) -> Any:
    return getattr(installed.package("torchattacks"), attack)


def _linf(attack: str, arguments: Mapping[str, Any]) -> bool:
    signature = inspect.signature(_class(attack)).parameters
    norm = arguments.get("norm", signature["norm"].default if "norm" in signature else "Linf")
    return attack not in _L2 and norm == "Linf"
