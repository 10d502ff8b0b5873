"""Attacks that are limited to a number of gradients: `budget: {gradients: 400}`, and experiments with `at-cost`.

When a spec is read, both limits are converted to numbers of steps. Plans, ids and rows contain only steps.
"""

from __future__ import annotations

from collections.abc import Iterator

from study.attacks.costs import fitting_steps
from study.attacks.recipe import Attack
from study.errors import StudyError
from study.spec.schema import Experiment, Spec
from study.spec.yaml_document import Document


def with_costs(spec: Spec, document: Document) -> Spec:
    """Return the spec with all limits on gradients replaced by numbers of steps that keep these limits.

    Raises StudyError, with the line, if not even one step fits, if an attack would take different numbers of steps on
    ensembles of different sizes, or if the number of gradients of an attack does not follow from its steps. Under
    `at-cost`, also raises StudyError for an attack without steps or with several budgets.
    """
    attacks = {
        name: attack if attack.budget.gradients is None else _limited(spec, document, name, attack.budget.gradients)
        for name, attack in spec.attacks.items()
    }
    spec = spec.model_copy(update={"attacks": attacks})
    experiments = {}
    for name, one in spec.experiments.items():
        experiments[name] = one
        if one.at_cost is not None:
            added = dict(_with_checkpoints(spec, document, name, one))
            attacks |= added
            experiments[name] = one.model_copy(update={"attacks": tuple(added)})
    return spec.model_copy(update={"attacks": attacks, "experiments": experiments})


def _limited(spec: Spec, document: Document, name: str, limit: int) -> Attack:
    """Return the attack `name` with the largest number of steps that takes at most `limit` gradients."""
    used = [one for one in spec.experiments.values() if name in one.attacks]
    sizes = {len(sources) for one in used for sources in spec.source_sets(one)} or {1}
    attack = spec.attacks[name]
    (steps,) = fitting_steps(name, attack, [limit], sizes, where=document.where(("attacks", name)))
    earlier = tuple(one for one in attack.checkpoints if one < steps)
    return attack.model_copy(update={"steps": steps, "checkpoints": earlier})


def _with_checkpoints(
    spec: Spec, document: Document, name: str, experiment: Experiment
) -> Iterator[tuple[str, Attack]]:
    """Yield each attack of the experiment with its new name, and with a checkpoint at each cost in `at-cost`."""
    assert experiment.at_cost is not None, "the caller has checked `at-cost`"
    costs = experiment.at_cost.gradients
    sizes = {len(sources) for sources in spec.source_sets(experiment)}
    where = document.where(("experiments", name, "at-cost"))
    ending = f"-to-{costs[-1]}"
    for called in experiment.attacks:
        attack = spec.attacks.get(called)
        if attack is None:
            # An unknown attack is left to the validation, which runs later and refuses it.
            continue
        if called.endswith(ending):
            # In a resolved spec, this attack already has the checkpoints.
            yield called, attack
            continue
        if len(attack.budget.levels) > 1 or attack.steps == 0:
            raise StudyError(
                f"'{called}' cannot stop at a number of gradients: the attack has no steps, or has several budgets",
                where=where,
                accepted="attacks with steps and a single budget",
                todo=f"move '{called}' to an experiment without `at-cost`",
            )
        stops = fitting_steps(called, attack, costs, sizes, where=where)
        changed = {
            "steps": stops[-1],
            "checkpoints": tuple(stops[:-1]),
            "budget": attack.budget.model_copy(update={"gradients": None}),
            "step_size": attack.step_size or attack.automatic_step_size,
        }
        yield f"{called}{ending}", attack.model_copy(update=changed)
