"""What pydantic cannot see in a spec: that names refer to something, and that matched budgets end somewhere."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from study import papers
from study.attacks import presets
from study.document import Document, Place
from study.errors import StudyError, names
from study.images.sets import Ranked
from study.models.remote import check_names
from study.models.transforms import side_after

if TYPE_CHECKING:
    from study.spec import Experiment, Sources, Spec

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
        self._black_boxes()
        self._images()
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
            self._published(experiment, (*place, "published"))
            self._goes_together(experiment, place)

    def models(self) -> None:
        """Models of other models name one that has a network or a service of its own."""
        for name, model in self._spec.models.items():
            if model.model is None:
                continue
            place = ("models", name, "model")
            self._known(model.model, self._spec.models, "model", place)
            base = self._spec.models[model.model]
            if base.model is not None or base.transform is not None:
                raise StudyError(
                    f"'{model.model}' has a transform of its own",
                    where=self._document.where(place),
                    todo="name the model without one, and list all transformations in `transform`, the first first",
                )

    def _black_boxes(self) -> None:
        """What services call labels is said of labels that there are; transformations fit the images."""
        for name, model in self._spec.models.items():
            if model.transform is not None:
                try:
                    side_after(model.transform, self._spec.images.size)
                except StudyError as error:
                    raise error.located(self._document.where(("models", name, "transform"))) from None
            if model.remote is not None:
                try:
                    check_names(model.remote, self._spec.labels)
                except StudyError as error:
                    raise error.located(self._document.where(("models", name, "remote", "names"))) from None

    def _images(self) -> None:
        images, place = self._spec.images, ("images",)
        named = [("keep", images.keep)] if isinstance(images.keep, tuple) else []
        if isinstance(images.targets, Ranked) and images.targets.by:
            named.append(("targets", images.targets.by))
        for key, models in named:
            for index, model in enumerate(models):
                self._known(model, self._spec.models, "model", (*place, key, index))
                if self._spec.models[model].remote is not None:
                    raise StudyError(
                        f"'{model}' is a remote service, which knows labels of its own and none of this study",
                        where=self._document.where((*place, key)),
                        accepted=names(one for one, other in self._spec.models.items() if other.remote is None),
                    )
        if isinstance(images.targets, Ranked) and not (images.targets.by or self._spec.sources()):
            raise StudyError(
                "target labels are ranked by models, and no source model is there to do it",
                where=self._document.where((*place, "targets")),
                accepted="{rank: …, by: [<model>, …]}",
            )

    def _goes_together(self, experiment: Experiment, place: Place) -> None:
        """What an experiment's attacks ask of its sources and targets."""
        spec = self._spec
        for index, name in enumerate(experiment.attacks):
            attack, there = spec.attacks[name], self._document.where((*place, "attacks", index))
            if experiment.sources.rule == "elsewhere" and attack.made is None:
                raise StudyError(
                    f"'{name}' has to be crafted, and its sources are `elsewhere`",
                    where=there,
                    todo="name source models, or give the attack `made: <folder>`",
                )
            services = [one for one in spec.targets(experiment) if spec.models[one].remote is not None]
            if services and attack.budget.minimal is not None:
                raise StudyError(
                    f"'{name}' searches the minimal RMSD by a target's labels, and '{services[0]}' is a remote service",
                    where=there,
                    todo="leave the service out of this experiment's targets, or give the attack a budget",
                )

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
        for name in dict.fromkeys((*(sources.among or ()), *(name for one in sources.sets for name in one))):
            if self._spec.models[name].target_only:
                model = self._spec.models[name]
                raise StudyError(
                    f"'{name}' takes no gradients, "
                    + ("being a remote service" if model.remote else "for its transform changes finished images"),
                    where=self._document.where(place),
                    todo="use it as a target only",
                )
        craftable = [name for name, model in self._spec.models.items() if not model.target_only]
        if not craftable and sources.rule != "elsewhere":
            raise StudyError("no model of this spec takes gradients", where=self._document.where(place))
        if sources.rule == "leave-one-out" and len(set(sources.among or craftable)) < 2:
            raise StudyError(
                "leave-one-out needs at least two models",
                where=self._document.where(place),
                todo="add a model, or write `sources: each`",
            )

    def _published(self, experiment: Experiment, place: Place) -> None:
        """Papers, tables and attacks of theirs that an experiment names are there."""
        if experiment.published is None:
            return
        theirs: set[str] = set()
        for one in experiment.published.tables:
            paper, _, table = one.partition(":")
            self._known(paper, papers.PAPERS, "paper", place)
            tables = papers.attacks_of(paper)
            if table not in tables:
                raise StudyError(
                    f"no numbers of a table '{table}' of {paper} are here",
                    where=self._document.where(place),
                    accepted=names([f"{paper}:{each}" for each in tables], one),
                )
            theirs |= tables[table]
        for ours, called in experiment.published.attacks.items():
            self._known(ours, experiment.attacks, "attack of this experiment", (*place, "attacks", ours))
            self._known(called, sorted(theirs), "attack in these tables", (*place, "attacks", ours))

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
