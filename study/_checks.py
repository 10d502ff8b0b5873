"""What pydantic cannot see in a spec: that names refer to something, and that matched budgets end somewhere."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from study.attacks import presets
from study.document import Document, Place
from study.errors import StudyError, names

if TYPE_CHECKING:
    from study.spec import Sources, Spec

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_JOINED = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")


class Checks:
    """All checks of one spec, which is known to have the right shape."""

    def __init__(self, spec: Spec, document: Document) -> None:
        self._spec = spec
        self._document = document

    def all(self) -> None:
        spec = self._spec
        self._name(spec.study, "a study", ("study",))
        for section in ("models", "attacks", "experiments"):
            for name in getattr(spec, section):
                self._name(name, f"one of the {section}", (section, name))
        for name in spec.attacks:
            self._matched(name)
            self._by_model(name)
        for name, experiment in spec.experiments.items():
            place = ("experiments", name)
            for index, attack in enumerate(experiment.attacks):
                self._known(attack, {*spec.attacks, *presets.known()}, "attack", (*place, "attacks", index))
            for index, target in enumerate(experiment.targets or ()):
                self._known(target, spec.models, "model", (*place, "targets", index))
            self._sources(experiment.sources, (*place, "sources"))

    def _name(self, name: str, what: str, place: Place) -> None:
        # The names of presets are joined by `+`; so are those of an ensemble's models, which therefore have none.
        pattern, marks = (_JOINED, "'.', '_', '+' and '-'") if place[0] == "attacks" else (_NAME, "'.', '_' and '-'")
        if not pattern.fullmatch(name) or len(name) > 100:
            raise StudyError(
                f"'{name}' cannot be the name of {what}",
                where=self._document.where(place),
                accepted=f"up to 100 letters, digits, {marks}, the first a letter or digit",
            )

    def _known(self, name: str, known: Any, what: str, place: Place) -> None:
        if name not in known:
            raise StudyError(
                f"there is no {what} named '{name}'",
                where=self._document.where(place),
                accepted=names(known, name),
            )

    def _sources(self, sources: Sources, place: Place) -> None:
        for index, name in enumerate(sources.among or ()):
            self._known(name, self._spec.models, "model", (*place, sources.rule, index))
        for index, one in enumerate(sources.sets):
            for inner, name in enumerate(one):
                self._known(name, self._spec.models, "model", (*place, index, inner))
        if sources.rule == "leave-one-out" and len(set(sources.among or self._spec.models)) < 2:
            raise StudyError(
                "leave-one-out needs at least two models",
                where=self._document.where(place),
                todo="add a model, or write `sources: each`",
            )

    def _by_model(self, name: str) -> None:
        """Weights and gammas are given to models that there are."""
        attack = self._spec.attacks[name]
        for model in attack.weights:
            self._known(model, self._spec.models, "model", ("attacks", name, "weights", model))
        for model in attack.skip_gradient.models if attack.skip_gradient else ():
            self._known(model, self._spec.models, "model", ("attacks", name, "skip_gradient", "models", model))

    def _matched(self, name: str) -> None:
        chain = [name]
        while (to := self._spec.attacks[chain[-1]].budget.to) is not None:
            place = ("attacks", chain[-1], "budget", "to")
            self._known(to, {*self._spec.attacks, *presets.known()}, "attack", place)
            if to in chain:
                raise StudyError(
                    f"matched budgets go in a circle: {' -> '.join([*chain[chain.index(to) :], to])}",
                    where=self._document.where(place),
                    todo="give one of these attacks a budget of its own: epsilon, rmsd, or none",
                )
            chain.append(to)
        for reference in chain[1:]:
            budget = self._spec.attacks[reference].budget
            if len(budget.levels) > 1 or budget.minimal is not None:
                raise StudyError(
                    f"'{reference}' makes more than one image of each, so that its RMSD is not one number",
                    where=self._document.where(("attacks", chain[chain.index(reference) - 1], "budget", "to")),
                    todo="match to an attack with a single budget",
                )
