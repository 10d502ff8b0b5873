"""What pydantic cannot see in a spec: that names refer to something, and that matched budgets end somewhere."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from study.attacks import presets
from study.defences.transforms import side_after
from study.errors import StudyError, names
from study.images.image_sets import Ranked
from study.models.services.label_names import check_names
from study.papers import registry
from study.papers.finding_cells import select
from study.papers.finding_spec import Finding, Selection
from study.spec.yaml_document import Document, Place

if TYPE_CHECKING:
    from study.geometry.spec import Probe
    from study.spec.schema import Experiment, Sources, Spec

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_ONE_OF = {"geometry": "a probe", "findings": "a finding"}
_JOINED = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")


class Checks:
    """All checks of one spec, which is known to have the right shape."""

    def __init__(self, spec: Spec, document: Document) -> None:
        self._spec = spec
        self._document = document

    def all(self) -> None:
        spec = self._spec
        self._name(spec.study, "a study", ("study",))
        for section in ("models", "attacks", "experiments", "geometry", "findings"):
            for name in getattr(spec, section):
                self._name(name, _ONE_OF.get(section, f"one of the {section}"), (section, name))
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
        for name, probe in spec.geometry.items():
            self._probe(probe, ("geometry", name))
        for name, finding in spec.findings.items():
            self._finding(finding, ("findings", name, "check", finding.check.kind))

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
                    check_names(model.remote.names, self._spec.labels)
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
            self._known(paper, registry.PAPERS, "paper", place)
            tables = registry.attacks_of(paper)
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

    def _probe(self, probe: Probe, place: Place) -> None:
        """A probe looks at models that take gradients, along attacks that go one way."""
        named = [("models", probe.models or ())]
        named += [(key, one.named) for key in ("along", "across") if (one := getattr(probe, key)) is not None]
        for key, models in named:
            for model in models:
                self._known(model, self._spec.models, "model", (*place, key))
                if self._spec.models[model].target_only:
                    why = "is a remote service" if self._spec.models[model].remote else "has a transform"
                    raise StudyError(
                        f"'{model}' {why}, and geometry is that of networks: it needs their gradients and logits",
                        where=self._document.where((*place, key)),
                        accepted=names(one for one, other in self._spec.models.items() if not other.target_only),
                    )
        if probe.models is None and all(model.target_only for model in self._spec.models.values()):
            raise StudyError("no model of this spec takes gradients", where=self._document.where(place))
        for key in ("along", "across"):
            direction = getattr(probe, key)
            if direction is None or direction.attack is None:
                continue
            there = (*place, key, "attack")
            self._known(direction.attack, {*self._spec.attacks, *presets.known()}, "attack", there)
            recipe = self._spec.attacks[direction.attack]
            budget = recipe.budget
            if recipe.made or recipe.admix or budget.matched or budget.minimal is not None or len(budget.levels) > 1:
                raise StudyError(
                    f"'{direction.attack}' cannot be the direction of a probe: it needs other images or another "
                    "attack, or makes several images of one",
                    where=self._document.where(there),
                    accepted="an attack with at most one budget of its own, that is neither matched nor searched, "
                    "without admix and `made`",
                )

    def _finding(self, finding: Finding, place: Place) -> None:
        """What a finding names is there, and each of its selections is of some planned cell."""
        spec, said = self._spec, getattr(finding.check, finding.check.kind)
        named: dict[str, tuple[Any, Any, str]] = {
            "pairs": ([model for pair in getattr(said, "pairs", None) or () for model in pair], spec.models, "model"),
            "models": (getattr(said, "models", None) or (), spec.models, "model"),
            "probe": ([one for one in (getattr(said, "probe", None),) if one], spec.geometry, "probe"),
        }
        if getattr(said, "order", None):
            kinds = {"attack": (spec.attacks, "attack"), "target": (spec.models, "model")}
            sets = {"+".join(one) for each in spec.experiments.values() for one in spec.source_sets(each)}
            named["order"] = (said.order, *kinds.get(said.along, (sets, "set of sources")))
        for key, (given, known, what) in named.items():
            for name in given:
                self._known(name, known, what, (*place, key))
        for key, selection in finding.check.selections.items():
            self._selection(selection, (*place, key))

    def _selection(self, selection: Selection, place: Place) -> None:
        spec = self._spec
        if selection.experiment is not None:
            self._known(selection.experiment, spec.experiments, "experiment", (*place, "experiment"))
        for attack in selection.attacks or ():
            self._known(attack, spec.attacks, "attack", (*place, "attacks"))
        for model in (*(selection.targets or ()), *(one for each in selection.sources or () for one in each)):
            self._known(model, spec.models, "model", place)
        try:
            select(spec, selection)
        except StudyError as error:
            raise error.located(self._document.where(place)) from None

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
