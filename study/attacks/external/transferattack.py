"""Adapter for attacks of TransferAttack (Trustworthy-AI-Group), from a checkout at the path in TRANSFERATTACK.

These attacks load their source models themselves, by name, onto `cuda`. During a call, `_Hub` replaces torchvision and
timm in the checkout's modules. `_Hub` has the study's sources under the names of their networks. The method `.cuda()`
is replaced too: it moves tensors and modules to the worker's device.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import importlib
import io
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from study.attacks.external import arguments as held
from study.attacks.external import limits
from study.attacks.external.call import ExternalCall
from study.attacks.external.failures import failure
from study.errors import StudyError, first_line
from study.reproducibility.hashing import digest
from study.reproducibility.imported_files import sources as sources_of

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

VARIABLE = "TRANSFERATTACK"

_PACKAGE = "transferattack"
_OURS = ("model_name", "targeted", "device", "attack")
_ENSEMBLE = "ensemble"
_DIGITS = 16


def version(attack: str) -> str:
    """Return a digest of the attack's source and of all files of the checkout that this source imports."""
    limits.known(f"{_PACKAGE}:{attack}", attack, attacks())
    module, _ = _package().attack_zoo[attack]
    path = checkout() / _PACKAGE / (module.strip(".").replace(".", "/") + ".py")
    return digest(sorted(sources_of(path, checkout()).items()))[:_DIGITS]


def attacks() -> Sequence[str]:
    """Return the names in the checkout's `attack_zoo`."""
    return sorted(_package().attack_zoo)


def home(attack: str) -> Path:
    """Return the folder of the checkout."""
    return checkout()


def check(attack: str, arguments: Mapping[str, Any], *, targeted: bool, sources: int, epsilon: float | None) -> None:
    """Raise StudyError in the cases that `Adapter.check` lists.

    `arguments` are the arguments of the attack's class, and may also have `ensemble`. With `ensemble: true`, the attack
    treats a single source as an ensemble. Several sources are always an ensemble.
    """
    name = f"{_PACKAGE}:{attack}"
    limits.known(name, attack, attacks())
    with _importable():
        target = _class(attack)
    held.check(name, target, _own(arguments), ours=_OURS)
    limits.goal(name, targeted=targeted, supported="targeted" in held.accepted(target))
    limits.norm(name, target, arguments, epsilon, linf=_linf(arguments))


def craft(call: ExternalCall) -> Tensor:
    """Run the attack on the sources, and return images (N, C, H, W).

    These are the clean images plus the perturbation that the attack returns.
    """
    hub = _Hub(call)
    for model in call.models:
        # In TransferAttack, the weights of loaded models require gradients: some attacks tune or prune weights by them.
        model[1].requires_grad_(True)
    with _importable(), contextlib.redirect_stdout(io.StringIO()):
        target = _class(call.attack)
        given = held.with_budget(target, _own(call.arguments), call.epsilon, linf=_linf(call.arguments))
        if "targeted" in held.accepted(target):
            given["targeted"] = call.targeted
        several = len(call.models) > 1 or call.arguments.get(_ENSEMBLE, False)
        called = list(call.networks) if several else call.networks[0]
        with hub.in_place(), _on(call.device):
            attack = _built(target, call, hub, {**given, "model_name": called})
            call.notes.extend(held.overridden(attack, given))
            moved = _moved(attack, call)
    return call.images + moved.to(call.device)


def checkout() -> Path:
    """Return the folder at the path in the environment variable TRANSFERATTACK.

    Raises StudyError if the variable is not set, or if the folder is not a checkout of TransferAttack.
    """
    given = os.environ.get(VARIABLE)
    accepted = "the path of a checkout of github.com/Trustworthy-AI-Group/TransferAttack, the same on every machine"
    if not given:
        raise StudyError(
            f"the environment variable {VARIABLE} is not set", accepted=accepted, todo=f"export {VARIABLE}=<path>"
        )
    folder = Path(given).resolve()
    if not (folder / _PACKAGE / "__init__.py").is_file():
        raise StudyError(
            f"{VARIABLE} is {given}, which has no package {_PACKAGE}", accepted=accepted, todo="correct the path"
        )
    return folder


class _Hub:
    """A replacement for torchvision and timm inside the checkout. It has only the networks of the source models."""

    def __init__(self, call: ExternalCall) -> None:
        self._networks: dict[str, list[nn.Module]] = {}
        self._preprocessing: dict[int, nn.Module] = {}
        for called, (first, network) in zip(call.networks, call.models, strict=True):
            self._networks.setdefault(called, []).append(network)
            self._preprocessing[id(network)] = first
        self._asked: dict[str, int] = dict.fromkeys(self._networks, 0)
        self._own = {name: len(networks) for name, networks in self._networks.items()}

    @property
    def asked(self) -> bool:
        """Whether the attack has loaded the network of a source."""
        return any(self._asked.values())

    @contextlib.contextmanager
    def in_place(self) -> Iterator[None]:
        """Within the context, let the checkout's modules load the networks of the sources.

        In these modules, torchvision, timm and their functions that build networks are replaced, so that `build`
        answers. The checkout's `wrap_model` is replaced too.
        """
        import timm
        import torchvision

        utils = sys.modules[f"{_PACKAGE}.utils"]
        builders = {name: functools.partial(self.build, name) for name in self._networks}
        zoo = _instead(torchvision.models, {**builders, "get_model": self.build})
        instead: dict[int, Any] = {
            id(getattr(torchvision.models, name)): functools.partial(self.build, name)
            for name in torchvision.models.list_models(module=torchvision.models)
        }
        instead |= {
            id(torchvision.models): zoo,
            id(torchvision): _instead(torchvision, {"models": zoo}),
            id(timm): _instead(timm, {"create_model": self.build, "list_models": self._names}),
            id(timm.create_model): self.build,
            id(utils.wrap_model): self._wrapped,
        }
        changed: list[tuple[ModuleType, str, Any]] = []
        try:
            for module in [one for name, one in sys.modules.items() if name.partition(".")[0] == _PACKAGE]:
                for name, value in list(vars(module).items()):
                    if id(value) in instead:
                        changed.append((module, name, value))
                        setattr(module, name, instead[id(value)])
            yield
        finally:
            for module, name, value in changed:
                setattr(module, name, value)

    def build(self, name: str, *_: Any, **__: Any) -> nn.Module:
        """Return the network of a source by the network's name.

        If several sources have a network of this name, calls return the networks of these sources in turn. Once every
        such network has been returned, further calls return copies of the networks, in the same order. Raises
        StudyError if no source has this network.
        """
        if name not in self._networks:
            raise StudyError(
                f"the attack loads the network '{name}', which is not among the sources",
                accepted=f"sources with this network; the sources have {', '.join(self._networks)}",
                todo="change the sources or the attack",
            )
        known, before = self._networks[name], self._asked[name]
        self._asked[name] += 1
        network = known[before % self._own[name]]
        if before < self._own[name]:
            return network
        another = copy.deepcopy(network)
        self._preprocessing[id(another)] = self._preprocessing[id(network)]
        known.append(another)
        return another

    def _wrapped(self, network: nn.Module) -> nn.Sequential:
        """Return two modules in sequence: the preprocessing of the network's source, and the network.

        A network that the attack has made itself belongs to no source. Such a network gets the preprocessing of the
        only source. Raises StudyError for such a network if there are several sources.
        """
        from torch import nn

        found = self._preprocessing.get(id(network))
        if found is None:
            if len({id(one) for one in self._preprocessing.values()}) > 1:
                raise StudyError(
                    "the attack changes its networks before it wraps them, which works with one source only",
                    accepted="one source",
                    todo="use `sources: each` in the attack's experiments",
                )
            found = next(iter(self._preprocessing.values()))
        return nn.Sequential(found, network)

    def _names(self, *_: Any, **__: Any) -> list[str]:
        return list(self._networks)


def _instead(module: ModuleType, values: Mapping[str, Any]) -> Any:
    """Return a replacement for `module` with other `values` for some names. All other attributes are the module's own.

    The `vars` of the replacement contain only the names in `values`.
    """

    class Instead:
        def __getattr__(self, name: str) -> Any:
            return getattr(module, name)

    found = Instead()
    vars(found).update(values)
    return found


def _built(target: Callable[..., Any], call: ExternalCall, hub: _Hub, given: Mapping[str, Any]) -> Any:
    """Build and return the attack object. Raises StudyError if the attack cannot take the sources."""
    name = f"{_PACKAGE}:{call.attack}"
    try:
        attack = target(**given)
    except ValueError as error:
        if hub.asked:
            raise
        raise StudyError(
            f"{name} does not take the sources: {first_line(error)}",
            accepted=f"sources with a network that the attack supports; the sources have {', '.join(call.networks)}",
            todo="change the sources or the attack",
        ) from error
    if not hub.asked:
        raise StudyError(
            f"{name} loads networks of its own, but none of the sources",
            accepted="an attack that takes its source model by name",
            todo="name another attack, or run this attack elsewhere and evaluate its images with `precomputed`",
        )
    return attack


def _moved(attack: Any, call: ExternalCall) -> Tensor:
    """Run the attack, and return its perturbation (N, C, H, W).

    Raises StudyError if the attack fails because it does not support a targeted goal, or a single source.
    """
    name = f"{_PACKAGE}:{call.attack}"
    try:
        moved: Tensor = attack(call.images, [call.true, call.labels] if call.targeted else call.labels)
        return moved
    except AttributeError as error:
        # Most attacks do not declare that they do not support a targeted goal or a single source. They fail with this
        # error.
        if call.targeted and "'list' object" in str(error):
            limits.goal(name, targeted=True, supported=False)
        if str(error) == "'Sequential' object has no attribute 'models'":
            raise StudyError(
                f"{name} attacks an ensemble, but there is one source",
                accepted="several sources, or the argument `ensemble: true` for one source",
                todo="name several sources, or set `ensemble: true` in its arguments",
            ) from error
        raise


@contextlib.contextmanager
def _on(device: torch.device) -> Iterator[None]:
    """Within the context, let `.cuda()` move tensors and modules to `device`."""
    import torch

    def moved(given: Any, *_: Any, **__: Any) -> Any:
        return given.to(device)

    before = torch.Tensor.cuda, torch.nn.Module.cuda
    torch.Tensor.cuda = torch.nn.Module.cuda = moved  # type: ignore[method-assign,assignment]
    try:
        yield
    finally:
        torch.Tensor.cuda, torch.nn.Module.cuda = before  # type: ignore[method-assign]


@contextlib.contextmanager
def _importable() -> Iterator[None]:
    """Make the checkout's package importable within the context.

    If the package of another checkout is loaded, that package is unloaded first.
    """
    folder = str(checkout())
    loaded = sys.modules.get(_PACKAGE)
    if loaded is not None and not str(loaded.__file__).startswith(f"{folder}{os.sep}"):
        for name in [one for one in sys.modules if one.partition(".")[0] == _PACKAGE]:
            del sys.modules[name]
        importlib.invalidate_caches()
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        sys.path.remove(folder)


def _package() -> Any:
    with _importable():
        return importlib.import_module(_PACKAGE)


def _class(attack: str) -> Any:
    """Return the class of an attack, inside a context of `_importable`.

    Raises StudyError if the attack's module fails when it is imported.
    """
    name = f"{_PACKAGE}:{attack}"
    try:
        return _package().load_attack_class(attack)
    except ImportError as error:
        raise StudyError(
            f"{name} cannot be imported: {first_line(error)}",
            todo=f"pip install {error.name}" if error.name else "install what the checkout's requirements.txt lists",
        ) from error
    except Exception as error:
        raise failure(name, error, checkout()) from error


def _own(arguments: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in arguments.items() if name != _ENSEMBLE}


def _linf(arguments: Mapping[str, Any]) -> bool:
    return bool(arguments.get("norm", "linfty") == "linfty")
