"""The conformance test of a component: an attack that contains the component runs on small networks and is checked.

A component passes if

- the attack runs on these networks;
- the adversarial images depend only on the clean image, the key of the random numbers, and the parameters;
- the gradients are finite;
- the attack takes the number of gradients that the component declares;
- images keep the budget, if the component is a program or a budget's rule;
- the networks are the same after the attack as before;
- a GPU, if there is one, gives nearly the same images.
"""

from __future__ import annotations

import contextlib
import functools
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from study.attacks.assembly import Assembly
from study.attacks.budget_spec import Budget
from study.attacks.component import Component
from study.attacks.components.ensembles import LossMean
from study.attacks.kinds import BudgetRule, Change, EnsembleRule, Pool
from study.attacks.loop import Engine, ImageBatch, NotFinite, craft, perturbations
from study.attacks.part import Part
from study.attacks.recipe import Attack
from study.errors import StudyError, first_line
from study.models import Model, loading
from study.models.classifier import Classifier
from study.models.weights.weight_set import WeightSet
from study.reproducibility import hardware, numerics
from study.reproducibility.rng import draws

NETWORKS = ("timm:test_resnet", "timm:test_efficientnet")
"""References of two small convolutional networks with residual branches. For the checks, random weights suffice."""

_LABELS = (1, 20, 300, 999, 5, 7)
_EPSILON = 8.0
_STEPS = 3
_RELATIVE = 1e-4
_SMALLEST = 1e-6
_TOLERANCE = 1e-3
"""Largest excess over the budget, in pixel values, that rounding in float32 may cause."""


@dataclass(frozen=True)
class CheckResult:
    """The result of one check.

    `fault` says what is wrong; it is empty if the component passes the check. `skipped` says why the check was not run;
    it is empty if the check was run.
    """

    check: str
    fault: str = ""
    skipped: str = ""


def check(component: Component, networks: Sequence[str] = NETWORKS, size: int = 48) -> Iterator[CheckResult]:
    """Yield the result of each check of a component, in an attack of three steps with epsilon 8.

    A budget rule replaces the epsilon. If the first run of the attack fails, no further check is made. `networks` are
    references of networks. The networks get random weights, and images of `size` x `size` pixels. An ensemble rule uses
    all networks, other components only the first. Raises StudyError if a network cannot be built, or if the component
    does not fit into the attack.
    """
    numerics.fix(1)
    count = len(networks) if isinstance(component, EnsembleRule) else 1
    several = isinstance(component, Change) and component.uses_weight_set
    models = [
        _with_weights(reference, size) if several else _network(reference, number, size)
        for number, reference in enumerate(networks[:count])
    ]
    trial = _Trial(component, models, size)
    yield from trial.run()


def _network(reference: str, number: int, size: int, *, fold: bool = True) -> Classifier:
    model = Model.model_validate({"network": reference, "weights": f"random:{number}", "size": size})
    return loading.load(reference, model, fold=fold)


def _with_weights(reference: str, size: int) -> Classifier:
    """Return a network with a weight set of three members with random weights. The network gets the members' mean."""
    states = [_network(reference, number, size, fold=False).network.state_dict() for number in range(3)]
    classifier = _network(reference, 0, size, fold=False)
    classifier.weight_set = WeightSet(states, [name for name, _ in classifier.network.named_parameters()])
    classifier.weight_set.put(classifier.network, classifier.weight_set.mean)
    return classifier


@contextlib.contextmanager
def counted(models: Sequence[nn.Module]) -> Iterator[dict[str, int]]:
    """Count the images in all passes through `models` within the `with` block.

    The dictionary that is yielded has two counts. `gradients` counts the images of backward passes, `forwards` those of
    forward passes without a gradient. An image counts once for each pass.
    """
    found = {"gradients": 0, "forwards": 0}

    def passed(_: nn.Module, given: tuple[Tensor, ...], logits: Tensor) -> None:
        if not logits.requires_grad:
            found["forwards"] += len(given[0])
            return
        # A backward pass reaches the logits and then the images if the loss depends on logits. If the loss depends on
        # features, the pass begins inside the network, and reaches only the images. Count each backward pass once.
        reached = [0, 0]

        def backward(end: int, gradient: Tensor) -> None:
            reached[end] += 1
            if reached[end] > reached[1 - end]:
                found["gradients"] += len(gradient)

        for end, tensor in enumerate((logits, given[0])):
            if tensor.requires_grad:
                tensor.register_hook(functools.partial(backward, end))  # type: ignore[no-untyped-call]

    with contextlib.ExitStack() as stack:
        for model in models:
            handle = model.register_forward_hook(passed)
            stack.callback(handle.remove)
        yield found


class _Trial:
    def __init__(self, component: Component, models: Sequence[nn.Module], size: int) -> None:
        self._component = component
        self._models = models
        self._names = [f"m{number}" for number in range(len(models))]
        shape = (len(_LABELS), 3, size, size)
        clean = (draws(int(np.prod(shape)), "conformance") >> np.uint64(56)).astype(np.uint8).reshape(shape)
        self._given = ImageBatch(clean, np.array(_LABELS), [f"image{index}" for index in range(len(_LABELS))])
        self._pool = Pool(clean[::-1].copy(), np.array(_LABELS[::-1]))
        self._attack = attack_with(component, _half(component, torch.from_numpy(clean)))

    def run(self) -> Iterator[CheckResult]:
        before = [_state(model) for model in self._models]
        try:
            first = self._crafted(range(len(_LABELS)), seed=1)
        except StudyError as error:
            broken = "gradients are finite" if isinstance(error, NotFinite) else "it runs"
            yield CheckResult(broken, f"{error.what}" + (f" ({error.where})" if error.where else ""))
            return
        except Exception as error:  # noqa: BLE001 - the error of a user's own code is a finding
            yield CheckResult("it runs", f"{type(error).__name__}: {first_line(error)}")
            return
        yield CheckResult("gradients are finite")
        generators = self._global_generators(first)
        yield generators
        if not generators.fault:
            yield self._neighbours(first)
        yield self._cost()
        if isinstance(self._component, BudgetRule):
            yield from self._rule(self._component, first)
        else:
            yield self._budget()
        changed = [
            name for model, state in zip(self._models, before, strict=True) for name in _differences(model, state)
        ]
        left = f"it leaves a change in {', '.join(changed[:3])}" if changed else ""
        yield CheckResult("it leaves nothing behind in a network", left)
        yield self._device(first)

    def _crafted(
        self,
        rows: Sequence[int],
        seed: int | None = None,
        models: Sequence[nn.Module] | None = None,
        device: str = "cpu",
    ) -> np.ndarray[Any, np.dtype[np.uint8]]:
        if seed is not None:
            _seed(seed)
        made = craft(
            models or self._models,
            self._attack,
            "untargeted",
            self._given.take(rows),
            key=("conformance",),
            engine=Engine(batch=4, device=device),
            names=self._names,
            pool=self._pool,
        )
        return made.pixels

    def _global_generators(self, first: np.ndarray[Any, Any]) -> CheckResult:
        check = "random numbers come from the keyed draws"
        _seed(2)
        state = _generators()
        again = self._crafted(range(len(_LABELS)))
        if not np.array_equal(first, again):
            return CheckResult(check, "another seed of the global generators gave other images: use `draws`")
        if state != _generators():
            return CheckResult(check, "it draws from a global generator of Python, numpy or torch: use `draws`")
        return CheckResult(check)

    def _neighbours(self, first: np.ndarray[Any, Any]) -> CheckResult:
        check = "an image does not depend on the other images, the batch or the order"
        order = [4, 1, 5, 0, 3, 2]
        for rows in (order, order[:3], order[3:4]):
            part = self._crafted(rows)
            if not np.array_equal(part, first[rows]):
                wrong = [row for row, one in zip(rows, part, strict=True) if not np.array_equal(one, first[row])]
                return CheckResult(
                    check,
                    f"with other images in the batch, or in another order, pixels differ in {len(wrong)} of "
                    f"{len(rows)} images",
                )
        return CheckResult(check)

    def _cost(self) -> CheckResult:
        with counted(self._models) as rows:
            self._crafted(range(4))
        found = rows["gradients"] / 4
        said = self._attack.gradients(_STEPS, len(self._models))
        fault = "" if found == said else f"it takes {found:g} gradients an image in {_STEPS} steps, but declares {said}"
        return CheckResult("it takes the number of gradients that it declares", fault)

    def _rule(self, rule: BudgetRule, made: np.ndarray[Any, np.dtype[np.uint8]]) -> Iterator[CheckResult]:
        """Yield the results of the checks of a budget rule.

        `made` are finished adversarial images, `uint8` (N, C, H, W).
        """
        origin = torch.from_numpy(self._given.clean).float()
        moved = torch.from_numpy(made).float() - origin
        (length,) = self._attack.budget.levels
        radius = None if length is None else rule.radius(length, origin[0].numel())
        size = rule.measure(moved, origin)
        faults = []
        if float(rule.measure(torch.zeros_like(origin), origin).abs().max()) > 0:
            faults.append("`measure` must return 0 for an unchanged image")
        if tuple(size.shape) != (len(origin),) or not bool(size.isfinite().all()) or float(size.min()) < 0:
            faults.append(
                "`measure` must return a tensor (N,) of finite numbers of 0 or more, one per image; the tensor that "
                f"it returned has the shape {tuple(size.shape)}"
            )
            yield CheckResult("it measures perturbations", "; ".join(faults))
            return
        larger = _perturbation(origin)
        sizes = torch.stack([rule.measure(share / 8 * larger, origin) for share in range(9)])
        if bool((sizes[1:] < sizes[:-1] * (1 - _RELATIVE)).any()):
            faults.append("`measure` must not fall if a perturbation is multiplied by a number above 1")
        yield CheckResult("it measures perturbations", "; ".join(faults))
        if radius is None:
            return
        held = torch.full((len(origin),), radius)
        beyond = float(size.max())
        fault = f"an image has the size {beyond:.6g}, but the radius is {radius:.6g}" if beyond > radius else ""
        yield CheckResult("images keep the budget", fault)
        projected = rule.project(larger, origin, held)
        beyond = float(rule.measure(projected, origin).max())
        within = rule.project(larger, origin, 2 * rule.measure(larger, origin))
        fault = ""
        if beyond > radius * (1 + _RELATIVE):
            fault = f"it projects onto a size of {beyond:.6g}, but the radius is {radius:.6g}"
        elif float((within - larger).abs().max()) > _TOLERANCE:
            fault = "it changes a perturbation that is within the radius"
        yield CheckResult("it projects onto the radius", fault)

    def _budget(self) -> CheckResult:
        check = "a program keeps the budget"
        if self._attack.program is None:
            return CheckResult(check, skipped="the component is no program: the loop itself keeps the budget")
        batches = perturbations(
            self._models,
            self._attack,
            "untargeted",
            self._given,
            key=("conformance",),
            engine=Engine(batch=4),
            names=self._names,
            pool=self._pool,
        )
        moved = max(float(delta.abs().max()) for _, deltas, _ in batches for delta in deltas)
        fault = f"it moves a pixel by {moved:.4g}, but epsilon is {_EPSILON:g}" if moved > _EPSILON + _TOLERANCE else ""
        return CheckResult(check, fault)

    def _device(self, first: np.ndarray[Any, Any]) -> CheckResult:
        check = "it runs on a GPU, with the same draws"
        if not hardware.gpu_available():
            return CheckResult(check, skipped="this machine has no GPU")
        models = [model.to("cuda") for model in self._models]
        found = self._crafted(range(len(_LABELS)), models=models, device="cuda")
        same = float((found == first).mean())
        # A GPU's kernels round differently, which changes few pixels. Different draws would change most pixels.
        return CheckResult(check, "" if same > 0.9 else f"only {same:.0%} of the pixels are equal to those of the CPU")


def _perturbation(origin: Tensor) -> Tensor:
    """Return a random change of each pixel by up to 8 pixel values, float (N, C, H, W) like `origin`.

    The changed image stays in 0..255.
    """
    words = draws(origin.numel(), "conformance", "perturbation") >> np.uint64(40)
    noise = torch.from_numpy(words.astype(np.float32)).view_as(origin) / 2**23 - 1
    return (origin + _EPSILON * noise).clamp(0, 255) - origin


def _half(component: Component, clean: Tensor) -> float | None:
    """Return a length for a budget with the rule `component`; None if the component is no budget rule.

    The length is half of the smallest size that the rule measures among the perturbations of `_perturbation`.
    """
    if not isinstance(component, BudgetRule):
        return None
    try:
        return max(float(component.measure(_perturbation(clean.float()), clean.float()).min()) / 2, _SMALLEST)
    except Exception:  # noqa: BLE001 - the run of the attack raises the same error and reports it
        return 1.0


def attack_with(component: Component, length: float | None = None) -> Attack:
    """Return an attack of three steps with epsilon 8 that uses `component`.

    If the component is a budget rule, `length` is the length of the budget. Raises StudyError if the component does not
    fit into the attack.
    """
    base = Attack.model_validate({"step": "sign", "steps": _STEPS, "epsilon": _EPSILON})
    assembly = base.assembly
    if length is not None:
        # The assembly gets the component itself. The part only marks that the budget is not an epsilon.
        part = Part(kind="budget", name=component.name)
        base = base.model_copy(update={"budget": Budget.model_construct(rule=part, length=length), "step_size": 2.0})
    kind = component.kind
    plural = {"view": "views", "point": "points", "update": "updates", "penalty": "penalties"}
    key = plural.get(kind, kind)
    value: Any = (component,) if isinstance(getattr(assembly, key), tuple) else component
    parts: dict[str, Any] = {name: getattr(assembly, name) for name in Assembly.__dataclass_fields__}
    if kind == "objective":
        # LossMean is the only rule that accepts every loss. The mean of a single loss is the loss itself.
        parts["ensemble"] = LossMean()
    replaced = Assembly(**{**parts, key: value})
    found = base.model_copy()
    # Set the cached assembly: the component then needs no entry in the recipe.
    found.__dict__["assembly"] = replaced
    if kind == "program":
        found.__dict__["program"] = component
    if component.uses_first:
        found.__dict__["first"] = _first_stage(component.first_points)
    broken = next(found.conflicts(), None)
    if broken is not None:
        raise StudyError(broken, where=type(component).__name__)
    return found


def _first_stage(points: int) -> Attack:
    """Return a first stage that gives `points` images: one at each of its checkpoints, and the finished image."""
    steps = max(2, points)
    checkpoints = list(range(steps - points + 1, steps))
    return Attack.model_validate({"step": "sign", "steps": steps, "epsilon": _EPSILON, "checkpoints": checkpoints})


def _seed(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def _generators() -> tuple[object, ...]:
    name, keys, place, *_ = np.random.get_state()
    return random.getstate(), name, bytes(np.asarray(keys).data), place, bytes(torch.get_rng_state().numpy().data)


_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks", "_full_backward_hooks")


def _state(model: nn.Module) -> Mapping[str, object]:
    """Return what the test compares in a network, by the name of the module or the parameter.

    For a module, this is its class, the numbers of its hooks, the names of its attributes, and its mode. For a
    parameter or buffer, this is the sum of its values, whether it requires a gradient, and whether it has one.
    """
    found: dict[str, object] = {}
    for name, module in model.named_modules():
        hooks = {key: len(getattr(module, key, ())) for key in _HOOKS}
        found[name or "the network"] = (type(module), hooks, sorted(vars(module)), module.training)
    for name, parameter in (*model.named_parameters(), *model.named_buffers()):
        found[name] = (parameter.requires_grad, parameter.grad is None, float(parameter.double().sum()))
    return found


def _differences(model: nn.Module, before: Mapping[str, object]) -> list[str]:
    after = _state(model)
    return [name for name in {**before, **after} if before.get(name) != after.get(name)]
