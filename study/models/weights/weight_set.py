"""A set of several weights of one network, for attacks that change the weights from step to step (LGV, MBA and others).

The weights are read once. They are then copied into the network, which is not built again. The set stays on the host,
and the network may be on another device. The batch norms of a network with a set are not folded. Folded batch norms
would not change with the weights, and the mean of folded weights is not the same as the folded mean of the weights.
"""

from __future__ import annotations

import glob
import hashlib
from collections.abc import Collection, Mapping, Sequence
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor, nn

from study.errors import StudyError
from study.models.weights import state_dict
from study.models.weights.state_dict import StateDict

_ACCEPTED = "a pattern that two or more files match, such as weights: {set: folder/*.safetensors}"


def files(pattern: str) -> list[Path]:
    """Return the files that `pattern` matches, sorted by path. Raises StudyError if fewer than two files match."""
    found = [path for path in map(Path, sorted(glob.glob(pattern, recursive=True))) if path.is_file()]
    if not found:
        raise StudyError(
            f"no file matches {pattern}, so the set of weights is empty",
            accepted=_ACCEPTED,
            todo="correct `weights: {set: …}`",
        )
    if len(found) == 1:
        raise StudyError(
            f"only {found[0]} matches {pattern}, but a set of weights has two or more files",
            accepted=_ACCEPTED,
            todo=f"correct the pattern, or write `weights: file:{found[0]}`",
        )
    return found


class WeightSet:
    """Two or more state dicts of one network, on the host, with the network's own names.

    `parameters` are the names of the parameters. All other tensors are buffers.
    """

    def __init__(self, states: Sequence[StateDict], parameters: Collection[str]) -> None:
        self.states = tuple(states)
        self.parameters = tuple(parameters)
        self._present: Mapping[str, Tensor] | None = None

    def __len__(self) -> int:
        return len(self.states)

    @cached_property
    def mean(self) -> StateDict:
        """The mean of each weight and buffer, rounded once. Integer tensors are those of the first file."""
        return {
            name: (self._mean(name).to(one.dtype) if one.is_floating_point() else one)
            for name, one in self.states[0].items()
        }

    @cached_property
    def deviation(self) -> StateDict:
        """The standard deviation of each parameter over the set (population formula, divided by n)."""
        found = {}
        for name in self.parameters:
            mean, total = self._mean(name), torch.zeros((), dtype=torch.float64)
            for state in self.states:
                total = total + (state[name].double() - mean).square()
            found[name] = (total / len(self.states)).sqrt().to(self.states[0][name].dtype)
        return found

    def _mean(self, name: str) -> Tensor:
        # States are added one at a time, because all states in double precision could need too much memory.
        total = torch.zeros((), dtype=torch.float64)
        for state in self.states:
            total = total + state[name].double()
        return total / len(self.states)

    @property
    def digest(self) -> str:
        """The SHA-256 of all tensors of all state dicts, in the order of their files' paths."""
        hashed = hashlib.sha256(str(len(self.states)).encode())
        for state in self.states:
            state_dict.hash_into(hashed.update, state)
        return hashed.hexdigest()

    def put(self, network: nn.Module, state: Mapping[str, Tensor]) -> None:
        """Copy `state` into the tensors of `network`, in place.

        Do not call this method between a forward pass and its backward pass.
        """
        if self._present is state:
            return
        with torch.no_grad():
            for name, tensor in network.state_dict().items():
                tensor.copy_(state[name])
        self._present = state


def read(network: nn.Module, paths: Sequence[Path], *, called: str) -> WeightSet:
    """Read the weights in the files `paths`, and load the mean of these weights into `network`.

    `network` must be on the host. If the weights of a file do not fit the network, raises a StudyError that names this
    file (see `state_dict.load`).
    """
    states = []
    for path in paths:
        state_dict.load(network, state_dict.read(path), called=called, origin=str(path))
        states.append({name: tensor.detach().clone() for name, tensor in network.state_dict().items()})
    found = WeightSet(states, [name for name, _ in network.named_parameters(remove_duplicate=False)])
    found.put(network, found.mean)
    return found
