"""The layers of any network by the roles that attacks use: stages, branches, attention, MLPs, activations, patches."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from torch import nn

from study.errors import StudyError, names
from study.models.layers.attention import Attention, attentions, known_attentions
from study.models.layers.blocks import Branch, branches, has_known_blocks, unknown_blocks
from study.models.layers.named import network_of
from study.models.layers.patches import Patches, patches_of
from study.models.layers.stages import stage_ends
from study.models.rewrites.cpu import Stem


@dataclass(frozen=True)
class Activation:
    """An activation that is a module: its name, and its kind in lower case (`relu`, `gelu`, `silu`, `hardswish`).

    A module that runs at several places counts once, under its first name. An activation that is only a function call
    is not an `Activation`. `changed_functions` changes both kinds of activations.
    """

    name: str
    kind: str


class Layers:
    """The layers of one network, by their names in `named_modules()`. Folding of batch norms does not change names.

    A property raises StudyError if its layers are not known for this network. It also raises StudyError if the network
    has no such layers, unless the property's own description allows that.
    """

    def __init__(self, network: nn.Module) -> None:
        self._network = network
        self.family = _family(network)

    @cached_property
    def stages(self) -> tuple[str, ...]:
        """The names of the modules whose outputs end the stages, in order.

        In a CNN, and in a transformer with a pyramid of resolutions, a stage is the part that computes at one
        resolution. Every block of a plain transformer is a stage.
        """
        found = stage_ends(self._network)
        if found is None:
            raise self._unknown("stages", "name a layer: `study models SPEC --layers MODEL` prints all")
        return found

    def stage(self, depth: float) -> str:
        """Return the name of the module that ends the stage at the relative depth `depth`, with 0 < depth <= 1.

        Of n stages, this is stage number ceil(depth * n), counted from 1. `stage(0.5)` is `layer2` of a ResNet, the end
        of conv3 of a VGG, and block 6 of a transformer of 12 blocks.
        """
        if not 0 < depth <= 1:
            raise StudyError(
                f"{depth:g} is not the depth of a stage",
                accepted="more than 0, up to 1",
                todo="choose a depth such as 0.5, the middle",
            )
        # In floats, 0.1 * 30 is a little more than 3. Without the tolerance, it would be rounded up to 4.
        return self.stages[math.ceil(depth * len(self.stages) - 1e-9) - 1]

    @property
    def middle(self) -> str:
        """The name of the middle layer: `stage(0.5)`."""
        return self.stage(0.5)

    def of_paper(self, method: str) -> str:
        """Return the name of the layer that the authors of `method` chose in this network.

        Raises StudyError if the authors chose no layer for this network.
        """
        name = _PAPERS.get(method, {}).get(_depth(self._network, self.family))
        if name == _STAGE_3:
            return self.stages[2]
        if name is None or name not in dict(self._network.named_modules()):
            raise StudyError(
                f"the authors of '{method}' named no layer of this network ({self.family})",
                accepted=", ".join(f"{one}: {', '.join(each)}" for one, each in _PAPERS.items()),
                todo=f"name a layer; the middle is '{self.middle}'",
            )
        return name

    @cached_property
    def blocks(self) -> tuple[Branch, ...]:
        """The residual branches and dense layers, in order; empty for a family without skip connections."""
        if self.family not in _WITHOUT_SKIPS:
            unknown = unknown_blocks(self._network)
            if unknown or not has_known_blocks(self._network):
                kinds = {type(self._network.get_submodule(name)).__name__ for name in unknown}
                of = f" of {names(kinds)} ('{unknown[0]}')" if unknown else ""
                raise self._unknown(f"residual branches{of}", "choose another network, or name layers")
        return tuple(branches(self._network))

    @cached_property
    def attention(self) -> tuple[Attention, ...]:
        """The attention modules, in order; empty for a network without attention."""
        return attentions(self._network)

    @cached_property
    def mlps(self) -> tuple[str, ...]:
        """The names of the MLP blocks of a transformer or a similar network, in order; empty for other networks."""
        found = [name for name, one in self._network.named_modules() if _MLPS.search(type(one).__name__)]
        whole = [name for name in found if not any(name.startswith(f"{other}.") for other in found)]
        attention = tuple(f"{one.name}." for one in known_attentions(self._network))
        chosen = tuple(name for name in whole if name and not name.startswith((*_NO_MLPS, *attention)))
        if attention and not chosen:
            raise self._unknown("MLPs", "choose another network, or name layers")
        return chosen

    @cached_property
    def activations(self) -> tuple[Activation, ...]:
        """The activations that are modules, in the order of the network's modules; empty if there are none."""
        return tuple(
            Activation(name, type(one).__name__.lower())
            for name, one in self._network.named_modules()
            if _is_activation(one) and not name.startswith(_ONLY_IN_TRAINING)
        )

    @cached_property
    def weighted(self) -> tuple[str, ...]:
        """The names of all convolutions and linear layers that run in a forward pass; empty if there are none."""
        return tuple(self._weighted())

    @cached_property
    def patches(self) -> Patches:
        """How a transformer cuts the image into tokens."""
        found = patches_of(self._network)
        if found is None:
            raise self._unknown("patches", "choose a transformer that cuts the image into patches")
        return found

    @cached_property
    def head(self) -> tuple[str, ...]:
        """The name of the last layer. A distilled transformer has two last layers, whose logits are averaged."""
        network: Any = self._network
        if hasattr(network, "get_classifier"):
            given = network.get_classifier()
            wanted = given if isinstance(given, tuple) else (given,)
            found = tuple(name for name, one in network.named_modules() if any(one is each for each in wanted))
        else:
            found = next((ends for name in _HEADS if (ends := _last(self._network, name))), ())
        if not found:
            raise self._unknown("last layers", "choose another network, or name the last layer")
        return found

    def _weighted(self) -> Iterator[str]:
        silent = {name for one in known_attentions(self._network) for name in one.silent}
        inside = ""
        for name, one in self._network.named_modules():
            if name.startswith(_ONLY_IN_TRAINING) or name in silent or (inside and name.startswith(inside)):
                continue
            if isinstance(one, nn.Conv2d | nn.Linear | Stem):
                # A rewritten convolution contains the original convolution, but does not call it.
                inside = f"{name}."
                yield name

    def _unknown(self, what: str, todo: str) -> StudyError:
        return StudyError(
            f"the {what} of this {type(self._network).__name__} ({self.family}) are not known",
            accepted="networks of torchvision, timm and pretrainedmodels of the usual families",
            todo=todo,
        )


def layers_of(model: nn.Module) -> Layers:
    """Return the layers of a network, or of a classifier's network."""
    return Layers(network_of(model))


def _family(network: nn.Module) -> str:
    """Return the family of a network.

    For a network of a zoo, this is the name of the Python module that defines the network's class, such as `resnet`.
    For the user's own network, it is the name of the class.
    """
    module = type(network).__module__
    zoos = ("torchvision.", "timm.", "pretrainedmodels.", "study.")
    return module.rpartition(".")[2] if module.startswith(zoos) else type(network).__name__


def _depth(network: Any, family: str) -> str:
    """Return the family, followed by the number of layers for a VGG or a ResNet, such as `resnet-50`.

    For a ResNet that does not have the original width, return `resnet of another width`.
    """
    if family == "vgg":
        layers = sum(isinstance(one, nn.Conv2d | nn.Linear) for one in network.modules())
        return f"vgg-{layers}"
    first = next((one for one in network.modules() if type(one).__name__ in ("BasicBlock", "Bottleneck")), None)
    if family != "resnet" or first is None:
        return family
    blocks = sum(type(one) is type(first) for one in network.modules())
    plain = first.conv1.out_channels == 64 and first.conv2.groups == 1
    per_block = 3 if hasattr(first, "conv3") else 2
    return f"resnet-{2 + per_block * blocks}" if plain else "resnet of another width"


def _is_activation(module: nn.Module) -> bool:
    kind, home = type(module).__name__, type(module).__module__
    if kind in _NO_ACTIVATION:
        return False
    return home == "torch.nn.modules.activation" or home.startswith("timm.layers.activations")


def _last(network: nn.Module, name: str) -> tuple[str, ...]:
    try:
        top = network.get_submodule(name)
    except AttributeError:
        return ()
    found = [
        ".".join(part for part in (name, inner) if part)
        for inner, one in top.named_modules()
        if isinstance(one, nn.Linear | nn.Conv2d)
    ]
    return tuple(found[-1:])


_HEADS = ("last_linear", "last_conv", "heads", "head", "fc", "classifier", "linear", "last")
_MLPS = re.compile(r"^(?!RelPos)\w*(Mlp|MLP|MLPBlock|FeedForward|SwiGLU|FFN|MlpWithDepthwiseConv|ConvMlpWithNorm)$")
_NO_MLPS = ("head", "classifier", "pre_logits")
_NO_ACTIVATION = {"Softmax", "Softmax2d", "LogSoftmax", "MultiheadAttention", "Sigmoid", "Hardsigmoid", "HardSigmoid"}
"""Classes that do not count as activations, because they compute attention maps or squeeze-and-excitation's gates."""

_ONLY_IN_TRAINING = ("AuxLogits", "aux1", "aux2")
"""The auxiliary heads of Inception v3 and GoogLeNet, which run only in training."""

_WITHOUT_SKIPS = {
    *("vgg", "alexnet", "squeezenet", "googlenet", "inception", "inception_v3", "inception_v4", "inceptionv4"),
    *("bninception", "vggm", "shufflenetv2"),
}

_STAGE_3 = "stage 3"
_FIA = {
    "inception": "Mixed_5b",
    "inception_v3": "Mixed_5b",
    "inception_resnet_v2": "conv2d_4a",
    "inceptionresnetv2": "conv2d_4a",
    "resnet-152": "layer2.7",
}

_PAPERS: dict[str, dict[str, str]] = {
    # Wang et al. 2021, arXiv:2107.14185. In the authors' TensorFlow code, the layers are Mixed_5b/concat,
    # Conv2d_4a_3x3/Relu, block2/unit_8 and conv3_3/Relu.
    "fia": {**_FIA, "vgg-16": _STAGE_3},
    # Zhang et al. 2022, arXiv:2204.00008: Mixed_5b, Mixed_5e, Conv2d_4a_3x3/Relu, and block2/unit_8 of a ResNet v2.
    "naa": {**_FIA, "inception_v4": "features.9", "inceptionv4": "features.9"},
    # Huang et al. 2019, arXiv:1907.10823: layer 4 of ResNet-18. Layer 0 is conv1, layer 1 is bn1, then come the stages.
    "ila": {"resnet-18": "layer3"},
    # Guo et al. 2020, arXiv:2012.03528, and Wang et al. 2023, arXiv:2306.12685: from the second block of conv4 on.
    "linbp": {"resnet-50": "layer3.0"},
    "bpa": {"resnet-50": "layer3.0"},
    # Li et al. 2023, arXiv:2304.13410: the last block of conv3.
    "ilpd": {"resnet-50": "layer2.3"},
}
"""For each method, the layers that the authors chose. The inner keys are results of `_depth`."""
