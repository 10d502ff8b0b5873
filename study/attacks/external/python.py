"""A user's own attack: a function `attack(models, images, labels, goal, generator)` in a file or module."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from study.attacks.external import arguments as held
from study.attacks.external.call import ExternalCall
from study.attacks.external.failures import failure
from study.errors import StudyError
from study.reproducibility import user_files
from study.reproducibility.hashing import digest
from study.reproducibility.user_files import UserFile

if TYPE_CHECKING:
    from torch import Tensor

_OURS = ("models", "images", "labels", "goal", "generator")
_DIGITS = 16


def version(attack: str) -> str:
    """Return a digest of the function's file and of the files beside it that this file imports.

    The files are read and not run.
    """
    return digest(_read(attack).nameless)[:_DIGITS]


def attacks() -> Sequence[str]:
    """Return an empty sequence: a user's own attacks have no list of names."""
    return ()


def home(attack: str) -> Path:
    """Return the folder of the function's file."""
    return Path(_read(attack).root)


def check(attack: str, arguments: Mapping[str, Any], *, targeted: bool, sources: int, epsilon: float | None) -> None:
    """Raise StudyError for a file or function that does not exist, and for arguments that the function does not take.

    The function must have the parameters of `_OURS`. The file is run. Every goal and any number of sources are
    accepted.
    """
    with _function(attack) as function:
        known = held.accepted(function)
        missing = [one for one in _OURS if one not in known]
        if missing:
            raise StudyError(
                f"the function {attack} does not take {' and '.join(missing)}",
                where=str(home(attack)),
                accepted=f"a function with the parameters {', '.join(_OURS)}, and others of its own",
                todo="add the missing parameters to the function",
            )
        # If the function has a parameter for the budget, `with_budget` adds the study's budget to the arguments.
        held.check(f"python:{attack}", function, held.with_budget(function, arguments, epsilon), ours=_OURS)


def craft(call: ExternalCall) -> Tensor:
    """Run the file anew, call its function, and return the images.

    If the function has a parameter for the budget, such as `epsilon`, this parameter gets the study's budget, for
    images in 0..1.
    """
    with _function(call.attack) as function:
        images: Tensor = function(
            models=list(call.models),
            images=call.images,
            labels=call.labels,
            goal="targeted" if call.targeted else "untargeted",
            generator=call.generator,
            **held.with_budget(function, call.arguments, call.epsilon),
        )
        return images


def _read(attack: str) -> UserFile:
    return user_files.read(attack, f"python:{attack}")


@contextmanager
def _function(attack: str) -> Iterator[Callable[..., Any]]:
    """Run the file or import the module, and yield the function that `attack` names.

    While the context is open, the function can import modules from the folder of the file.
    """
    file = _read(attack)
    with ExitStack() as stack:
        try:
            module = stack.enter_context(user_files.run(file, folder=file.root))
        except Exception as error:
            raise failure(f"python:{attack}", error, Path(file.root)) from error
        yield user_files.function_of(file, module)
