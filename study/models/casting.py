"""Copy a network, and cast the copy's weights to bfloat16 once. Autocast alone would cast weights in every pass.

The copy must run within `torch.autocast`. There, its results have the same bits as the results of the original network.
Operations follow PyTorch's rules for autocast: convolutions and matrix products run in bfloat16. On a GPU, layer norms,
softmax and sums run in float32.
"""

from __future__ import annotations

import copy

import torch
from torch import nn

# These modules use their weights only in operations that autocast runs in bfloat16. Only exact classes count, because a
# subclass may first change its weights (standardise them, for example). Autocast still casts the weights of all other
# modules. The keys are names and not classes, because the import of timm takes seconds.
_WEIGHTS = {
    "torch.nn.modules.conv.Conv1d": ("weight", "bias"),
    "torch.nn.modules.conv.Conv2d": ("weight", "bias"),
    "torch.nn.modules.conv.ConvTranspose2d": ("weight", "bias"),
    "torch.nn.modules.linear.Linear": ("weight", "bias"),
    "torch.nn.modules.linear.NonDynamicallyQuantizableLinear": ("weight", "bias"),
    "torch.nn.modules.activation.MultiheadAttention": ("in_proj_weight", "in_proj_bias"),
    "timm.layers.conv2d_same.Conv2dSame": ("weight", "bias"),
}


def cast_copy(network: nn.Module) -> nn.Module:
    """Return a copy of the frozen `network` with bfloat16 weights. The copy shares all other tensors with `network`."""
    tensors = [*network.parameters(), *network.buffers()]
    made = copy.deepcopy(network, {id(one): one for one in tensors})
    cast: dict[nn.Parameter, nn.Parameter] = {}
    for module in made.modules():
        for name in _WEIGHTS.get(f"{type(module).__module__}.{type(module).__qualname__}", ()):
            weight = getattr(module, name)
            if isinstance(weight, nn.Parameter) and weight.dtype == torch.float32:
                if weight not in cast:
                    cast[weight] = nn.Parameter(weight.detach().to(torch.bfloat16), requires_grad=False)
                setattr(module, name, cast[weight])
    return made
