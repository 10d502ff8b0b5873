"""Read state dicts from files without running code, rename their tensors to a network's names, and load them strictly.

"Strictly" means that all names and shapes must fit.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from study.errors import StudyError, names
from study.models.weights import checkpoint
from study.models.weights.locate import DATE

StateDict = dict[str, Tensor]

_KEYS = ("state_dict", "model", "model_state_dict", "model_state", "state_dict_ema", "model_ema", "net", "network")
_PREFIXES = ("module.", "model.", "_orig_mod.", "network.")
_AUXILIARY_HEADS = ("aux1.", "aux2.", "AuxLogits.")
_NORMALISER = ("normalize.mean", "normalize.std")
"""The names of a mean and a std that some files, such as RobustBench's, contain in addition to the network."""
_COUNTER = "num_batches_tracked"
_HASH_IN_NAME = re.compile(r"-([0-9a-f]{8,64})\.(?:pth|pt|th|bin)")
_DENSE_LAYER = re.compile(r"(.*denselayer\d+\.(?:norm|conv))\.([12]\..+)")


def read(path: Path, *, sha256: str | None = None) -> StateDict:
    """Read the state dict in a .safetensors or torch file (.pth, .pt, .th, .bin). No code in the file runs.

    In a training checkpoint, the state dict is the value of the first present key among `state_dict`, `model`,
    `model_state_dict`, `model_state`, `state_dict_ema`, `model_ema`, `net` and `network`. `sha256` is the file's
    SHA-256, or at least its first eight digits. Without `sha256`, the digits that torch.hub writes at the end of a
    file's name are checked. Raises StudyError if the file is missing, has another SHA-256, or contains no state dict.
    """
    if not path.is_file():
        raise StudyError(f"the weights file {path} does not exist", todo="correct `weights: file:…`")
    verify(path, sha256)
    return _state_in(checkpoint.read(path), path)


def outline(path: Path) -> StateDict:
    """Return what `read` returns, but with tensors on the meta device: names, shapes and dtypes without values.

    The file's SHA-256 is not checked, because the whole file would have to be read. Raises StudyError if the file is
    missing or contains no state dict.
    """
    if not path.is_file():
        raise StudyError(f"the weights file {path} does not exist", todo="correct `weights: file:…`")
    return _state_in(checkpoint.outline(path), path)


def load(network: nn.Module, state: StateDict, *, called: str, origin: str) -> None:
    """Load `state` into `network`. Raises StudyError if a name, a shape or a type does not fit.

    Values are converted to the network's float type. Names are adapted by `fitted`, which also explains `called` and
    `origin`.
    """
    network.load_state_dict(fitted(network, state, called=called, origin=origin))


def fitted(network: nn.Module, state: StateDict, *, called: str, origin: str) -> StateDict:
    """Return `state` under the names of `network`. Raises StudyError if a name, a shape or a type does not fit.

    Prefixes that wrappers add to all names are removed. Old names in torchvision's DenseNets are replaced by the new
    names. Auxiliary heads that the network does not have are left out. A type does not fit if the network has floats
    and `state` does not. No values of tensors are read. `called` and `origin` name the network and the weights in
    messages.
    """
    own, given = network.state_dict(), state
    state = _fitted(given, own)
    missing = sorted(own.keys() - state.keys())
    surplus = sorted(state.keys() - own.keys())
    shared = sorted(own.keys() & state.keys())
    reshaped = [name for name in shared if own[name].shape != state[name].shape]
    rounded = [name for name in shared if own[name].is_floating_point() and not state[name].is_floating_point()]
    problems = []
    if missing:
        problems.append(f"{_tensors(missing)} missing (first: {missing[0]})")
    if surplus:
        problems.append(f"{_tensors(surplus)} unknown (first: {surplus[0]})")
    if reshaped:
        name = reshaped[0]
        shapes = f"{tuple(state[name].shape)} in the file, {tuple(own[name].shape)} in the network"
        problems.append(f"{_tensors(reshaped)} of another shape (first: {name}, {shapes})")
    if rounded:
        problems.append(f"{_tensors(rounded)} of {state[rounded[0]].dtype} in place of floats (first: {rounded[0]})")
    if problems:
        other = "choose the network that the weights belong to, or other weights"
        if len(problems) == 1 and reshaped:
            other = f"if the weights were trained for other classes, name these classes with `classes`; else {other}"
        raise StudyError(
            f"the weights in {origin} do not fit {called}: {'; '.join(problems)}",
            accepted=f"a state dict with the {len(own)} tensors of {called}",
            todo=_advice_on_prefix(given, own) or other,
        )
    return state


def check_normaliser(state: StateDict, mean: Sequence[float], std: Sequence[float], origin: str) -> None:
    """Raise StudyError if `state` contains a mean or std of the input that differs from `mean` or `std`.

    `origin` names the weights in the message.
    """
    for name, used in zip(_NORMALISER, (mean, std), strict=True):
        own = state.get(name)
        if own is None:
            continue
        found = [round(float(one), 4) for one in own.flatten()]
        if found != [round(one, 4) for one in used]:
            raise StudyError(
                f"the weights in {origin} need the {name.partition('.')[2]} {found}, but the model has {list(used)}",
                todo=f"write `{name.partition('.')[2]}: {found}`",
            )


def hash_into(add: Callable[[bytes | memoryview], object], state: Mapping[str, Tensor]) -> None:
    """Pass the name, dtype, shape and bytes of each tensor of `state` to `add`, in the order of sorted names.

    `add` is the `update` method of a hash.
    """
    for name, tensor in sorted(state.items()):
        add(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        add(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)


def _tensors(of: Sequence[str]) -> str:
    return f"{len(of)} tensor is" if len(of) == 1 else f"{len(of)} tensors are"


def verify(path: Path, pinned: str | None) -> None:
    """Raise StudyError if the SHA-256 of the file at `path` does not begin with the digits `pinned`.

    If `pinned` is None, the digits in the file's name are used. If the name has no digits, nothing is checked.
    """
    named = _HASH_IN_NAME.search(path.name)
    if pinned is None and (named is None or DATE.fullmatch(named[1])):
        return
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if pinned is not None:
        if not found.startswith(pinned.lower()):
            raise StudyError(
                f"the weights file {path} has another SHA-256 than the spec requires",
                accepted=f"sha256 {pinned.lower()}; found {found}",
                todo="restore the right file, or correct `sha256`",
            )
    elif named is not None and not found.startswith(named[1]):
        raise StudyError(
            f"the weights file {path} is damaged or renamed: according to its name, its SHA-256 begins with {named[1]}",
            accepted=f"a file with that SHA-256; found {found}",
            todo="fetch the file again; if it is the right file, rename it or give its `sha256`",
        )


def _state_in(found: Any, path: Path) -> StateDict:
    while isinstance(found, dict) and (inside := [key for key in _KEYS if isinstance(found.get(key), dict)]):
        found = found[inside[0]]
    if isinstance(found, dict) and all(isinstance(value, Tensor) for value in found.values()):
        return dict(found)
    holds = f"a mapping with {names(map(str, found))}" if isinstance(found, dict) else f"a {type(found).__name__}"
    raise StudyError(
        f"{path} holds no state dict (names with tensors), but {holds}",
        accepted=f"a state dict, alone or under one of {', '.join(_KEYS)}",
        todo="save model.state_dict() and use that file",
    )


def _prefix(state: Collection[str], own: Collection[str]) -> str:
    """Return the prefix with which `state` contains all names of the network (`own`); empty without such a prefix."""
    required = [name for name in own if not name.endswith(_COUNTER)]
    if not required:
        return ""
    given = set(state)
    prefixes = (name.removesuffix(required[0]) for name in state if name.endswith(f".{required[0]}"))
    return next((prefix for prefix in prefixes if all(prefix + name in given for name in required)), "")


def _advice_on_prefix(state: StateDict, own: Collection[str]) -> str | None:
    """Return the advice for a file that has the network's tensors under a prefix and also has other tensors.

    None for all other files.
    """
    prefix = _prefix(state, own)
    if not prefix:
        return None
    others = sorted(name for name in state if not name.startswith(prefix))
    if not others:
        return None
    return (
        f"the file has all tensors of the network under '{prefix}', and {names(others, most=3)} as well: save only the "
        f"tensors under '{prefix}', without the prefix; if the other tensors are a mean and a std, write both into the "
        "spec"
    )


def _fitted(state: StateDict, own: Collection[str]) -> StateDict:
    """Return `state` with all known differences from the network's names `own` removed."""
    known = set(own)
    state = {name: value for name, value in state.items() if name not in _NORMALISER or name in known}
    prefix = _prefix(state, own)
    if prefix and all(name.startswith(prefix) for name in state):
        state = {name.removeprefix(prefix): value for name, value in state.items()}
    while state and known.isdisjoint(state):
        wrapper = next((one for one in _PREFIXES if all(name.startswith(one) for name in state)), None)
        if wrapper is None:
            break
        state = {name.removeprefix(wrapper): value for name, value in state.items()}
    if any("denselayer1.norm1." in name for name in known):
        state = {_DENSE_LAYER.sub(r"\1\2", name): value for name, value in state.items()}
    without = tuple(head for head in _AUXILIARY_HEADS if not any(name.startswith(head) for name in known))
    state = {name: value for name, value in state.items() if name in known or not name.startswith(without)}
    # Old files lack the counters of batch norms. Zeros are added, because a network in eval mode does not read them.
    if state and not any(name.endswith(_COUNTER) for name in state):
        state |= {name: torch.tensor(0) for name in known if name.endswith(_COUNTER)}
    return state
