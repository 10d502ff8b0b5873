"""The libraries whose attacks a spec can name. Each library has a module with the functions of `Adapter`."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

from study.attacks.external.call import ExternalCall

if TYPE_CHECKING:
    from torch import Tensor

NAMES = ("torchattack", "torchattacks", "foolbox", "transferattack", "python")


class Adapter(Protocol):
    """The functions of the module of each library. `attack` is the name of an attack in this library."""

    def version(self, attack: str) -> str:
        """Return the installed version of the library, or a digest of the attack's source.

        Raises StudyError if the library or the source is missing.
        """

    def attacks(self) -> Sequence[str]:
        """Return the names of the library's attacks. Raises StudyError if the library is missing."""

    def home(self, attack: str) -> Path:
        """Return the folder of the attack's code. If the attack fails, the message names a line in this folder."""

    def check(
        self, attack: str, arguments: Mapping[str, Any], *, targeted: bool, sources: int, epsilon: float | None
    ) -> None:
        """Raise StudyError for an unknown attack or argument, or an unsupported goal or number of sources.

        Also raise it if an argument or a budget is missing. `targeted` is True for a targeted goal. `sources` is the
        number of source models. `epsilon` is the L-infinity budget for images in 0..1. The check needs no model, and
        attacks no image of a study.
        """

    def craft(self, call: ExternalCall) -> Tensor:
        """Run the attack on one batch, and return its images (N, C, H, W), which should be in 0..1.

        The attack is built anew in each call. Some exceptions of the attack become StudyErrors, the others are not
        caught. Callers must have called `check` before.
        """


def adapter(library: str) -> Adapter:
    """Return the adapter module of a library, without importing the library itself."""
    assert library in NAMES, "the library's name is checked when a spec is read"
    return cast(Adapter, importlib.import_module(f"{__package__}.{library}"))
