"""Build networks with the user's own code: `python:<module>:<function>`, or `python:<file>:<function>`.

The function runs with all rights of the user who starts the study. Therefore no such code runs without permission.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from study.errors import StudyError
from study.models.classifier import Preprocessing
from study.models.reference import Model
from study.reproducibility import user_files
from study.reproducibility.hashing import canonical
from study.reproducibility.imported_files import sources
from study.reproducibility.user_files import UserFile

_NEEDED = ("size", "mean", "std")
_WEIGHTS = ("own", "file", "set", "random")


def check(name: str, model: Model, *, allowed: bool) -> None:
    """Raise StudyError if the code is not `allowed` or its file is not found.

    Also raise StudyError if the spec does not describe the network's input, or has weights of a kind that does not
    apply to the user's own code.
    """
    if not allowed:
        raise _forbidden(f"model '{name}'", model)
    kind = (model.weights or "own").partition(":")[0]
    if kind not in _WEIGHTS:
        raise StudyError(
            f"model '{name}' is your own code, which has no weights '{model.weights}'",
            accepted="weights: own (loaded by the function), file:<path>, {set: <pattern>}, random:<seed>",
            todo=f"correct the weights of model '{name}'",
        )
    missing = [key for key in _NEEDED if getattr(model, key) is None]
    if missing:
        raise StudyError(
            f"model '{name}' is your own code, and the spec does not define its input: {', '.join(missing)} missing",
            accepted="size in pixels; mean and std, one number for each channel, for images scaled to 0..1",
            todo=f"add {', '.join(missing)} to model '{name}'",
        )
    user_files.require_name(user_files.read(model.name, str(model.network)))


def build(model: Model, *, allowed: bool) -> tuple[nn.Module, str]:
    """Call the user's function with the model's `arguments`. Return the network, and its identity for the digest.

    Only `build` runs the user's code, so `build` itself checks `allowed`. The identity is a text with the SHA-256 of
    the function's source and of the files that this source imports from its folder. It contains no absolute paths.

    Raises StudyError if the code is not allowed, the function does not exist, or the function does not return a
    network. Exceptions of the function are not caught.
    """
    if not allowed:
        raise _forbidden("a model", model)
    file = user_files.read(model.name, str(model.network))
    with user_files.run(file, folder=file.root) as module:
        return _built(model, file, module)


def _built(model: Model, file: UserFile, module: ModuleType) -> tuple[nn.Module, str]:
    function = user_files.function_of(file, module)
    arguments: Mapping[str, Any] = model.arguments
    built = function(**arguments)
    if not isinstance(built, nn.Module):
        raise StudyError(
            f"{model.network} returned {type(built).__name__}, not a network",
            accepted="a function that returns a torch.nn.Module",
        )
    own, text = user_files.source_of(file, function, module)
    root, others = Path(file.root), dict(file.sources)
    if own.resolve().is_relative_to(root):
        name = own.resolve().relative_to(root).as_posix()
        if name not in others:
            others |= sources(own, root)
        others.pop(name, None)
    imported = f" beside {sorted(others.items())}" if others else ""
    digest = hashlib.sha256(text).hexdigest()
    return built, f"python:{file.called} {digest} {canonical(arguments)}{imported}"


def _forbidden(called: str, model: Model) -> StudyError:
    return StudyError(
        f"{called} is your own code ({model.network}), which may not run without permission",
        accepted="--allow-code, for code that you trust: it runs with all your rights",
        todo="read the code, then add --allow-code to the command; or remove the model",
    )


def preprocessing(model: Model) -> Preprocessing:
    """Return the preprocessing in the spec. Call `check` first, which raises an error if a value is missing."""
    assert model.size is not None, "`check` requires a size"
    assert model.mean is not None, "`check` requires a mean"
    assert model.std is not None, "`check` requires a std"
    return Preprocessing(size=model.size, interpolation="bilinear", mean=model.mean, std=model.std)
