"""Attacks held to a number of gradients: `budget: {gradients: 400}`, and experiments with `at-cost`.

Both become steps when a spec is read, so that plans, ids and rows know steps only.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from study.attacks.costs import steps_within
from study.attacks.recipe import Attack
from study.errors import StudyError
from study.spec.schema import Experiment, Spec
from study.spec.yaml_document import Document, Place


def with_costs(spec: Spec, document: Document) -> Spec:
    """Return the spec with the steps that follow from numbers of gradients.

    Raises StudyError, with the line, if no step fits, or if an attack would take other numbers of steps on ensembles of
    other sizes.
    """
    attacks = {}
    for name, attack in spec.attacks.items():
        limit = attack.budget.gradients
        if limit is not None:
            place: Place = ("attacks", name)
            steps = _steps(attack, limit, _sizes(spec, name), name, document, place)
            if not steps:
                raise _too_few(attack, name, limit, _sizes(spec, name), document, place)
            attack = attack.model_copy(update={"steps": steps, "checkpoints": _up_to(attack.checkpoints, steps)})
        attacks[name] = attack
    spec = spec.model_copy(update={"attacks": attacks})
    experiments = {}
    for name, experiment in spec.experiments.items():
        if experiment.at_cost is not None:
            added = dict(_at_cost(spec, experiment, document, ("experiments", name, "at-cost")))
            spec = spec.model_copy(update={"attacks": spec.attacks | added})
            experiment = experiment.model_copy(update={"attacks": tuple(added)})
        experiments[name] = experiment
    return spec.model_copy(update={"experiments": experiments})


def _at_cost(spec: Spec, experiment: Experiment, document: Document, place: Place) -> Iterator[tuple[str, Attack]]:
    """The attacks of an experiment with a checkpoint at each cost, under names of their own."""
    assert experiment.at_cost is not None
    costs = experiment.at_cost.gradients
    sizes = {len(sources) for sources in spec.source_sets(experiment)}
    ending = f"-to-{costs[-1]}"
    for name in experiment.attacks:
        attack = spec.attacks.get(name)
        if attack is None or name.endswith(ending):
            # An unknown attack is refused later; a resolved spec has its checkpoints already.
            if attack is not None:
                yield name, attack
            continue
        if len(attack.budget.levels) > 1 or attack.steps == 0:
            raise StudyError(f"'{name}' has no steps to cut at a number of gradients", where=document.where(place))
        stops = sorted({steps for cost in costs if (steps := _steps(attack, cost, sizes, name, document, place))})
        if not stops:
            raise _too_few(attack, name, costs[-1], sizes, document, place)
        budget = attack.budget.model_copy(update={"gradients": None})
        changed = {"steps": stops[-1], "checkpoints": tuple(stops[:-1]), "budget": budget}
        if attack.step_size is None:
            changed["step_size"] = attack.automatic_step_size
        yield f"{name}{ending}", attack.model_copy(update=changed)


def _sizes(spec: Spec, attack: str) -> set[int]:
    """The numbers of source models that an attack runs on."""
    used = [experiment for experiment in spec.experiments.values() if attack in experiment.attacks]
    return {len(sources) for experiment in used for sources in spec.source_sets(experiment)} or {1}


def _steps(attack: Attack, cost: int, sizes: set[int], name: str, document: Document, place: Place) -> int:
    try:
        found = {size: steps_within(attack, cost, size) for size in sorted(sizes)}
    except StudyError as error:
        raise error.located(f"attack '{name}', {document.where(place)}") from None
    if len(set(found.values())) > 1:
        each = ", ".join(f"{steps} on {size} models" for size, steps in found.items())
        raise StudyError(
            f"{cost} gradients per source model are different numbers of steps of '{name}': {each}",
            where=document.where(place),
            todo="write one attack, or one experiment, for each number of source models",
        )
    return next(iter(found.values()))


def _too_few(attack: Attack, name: str, cost: int, sizes: set[int], document: Document, place: Place) -> StudyError:
    least = max(-(-attack.gradients(1, size) // size) for size in sizes)
    return StudyError(
        f"one step of '{name}' takes {least} gradients, and {cost} are allowed",
        where=document.where(place),
        accepted=f"{least} or more",
    )


def _up_to(checkpoints: Sequence[int], steps: int) -> tuple[int, ...]:
    return tuple(one for one in checkpoints if one < steps)
