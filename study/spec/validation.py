"""Checks across the parts of a spec: every name refers to something that exists, and the parts fit together."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from typing import Any

from study.attacks import presets
from study.attacks.part import Part
from study.defences.kinds import Defence, Vote
from study.defences.transforms import side_after
from study.errors import StudyError, names
from study.geometry.spec import Probe
from study.images.image_sets import Ranked
from study.models.reference import Model
from study.models.services.label_names import check_names
from study.papers import registry
from study.papers.finding_cells import select
from study.papers.finding_spec import CellSelection, Finding
from study.spec import other_names
from study.spec.schema import Experiment, Sources, Spec
from study.spec.yaml_document import Document, Place

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_ATTACK_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")
_NAMED = {
    "models": "a model",
    "attacks": "an attack",
    "experiments": "an experiment",
    "geometry": "a probe",
    "findings": "a finding",
}


_PREDICTS = "a model without `role: source`"
_SELECTS = "a model without `remote` and without `role: source`"
_HAS_GRADIENTS = "a model with a network and without a transform"
_PROBED = "a model with a network, without a transform and without `role: source`"
"""Descriptions of the models that a place accepts, for messages about a spec that has no such model."""


class Validation:
    """Checks of a spec whose parts pydantic has already accepted.

    Each check raises StudyError with file, line and key.
    """

    def __init__(self, spec: Spec, document: Document) -> None:
        self._spec = spec
        self._document = document

    def all(self) -> None:
        """Run all checks except `base_models`, which must be run before."""
        spec = self._spec
        self._name(spec.study, "a study", ("study",))
        for section, what in _NAMED.items():
            for name in getattr(spec, section):
                self._name(name, what, (section, name))
        self._black_boxes()
        self._visibility()
        self._images()
        for name in spec.attacks:
            self._matched_budgets(name)
            self._models_of_attack(name)
        for name, experiment in spec.experiments.items():
            place = ("experiments", name)
            for index, attack in enumerate(experiment.attacks):
                self._attack_or_preset(attack, (*place, "attacks", index))
            for index, target in enumerate(experiment.targets.named if experiment.targets else ()):
                among = () if experiment.targets is None or experiment.targets.models else ("among",)
                there = (*place, "targets", *among, index)
                accepted = _accepted(spec.predicting, _PREDICTS, target)
                self._known(target, spec.models, "model", there, accepted=accepted)
                if spec.models[target].source_only:
                    accepted = _accepted(spec.predicting, _PREDICTS)
                    raise self._only_a_source(target, there, "cannot be a target", accepted)
            self._sources(experiment.sources, (*place, "sources"))
            # `_kin` checks whether `not-family-of` leaves a target.
            if not spec.predicting:
                raise StudyError(
                    "no model is left as a target: all models of this spec are sources only",
                    where=self._document.where(place),
                    todo="add a model without `role: source`",
                )
            self._kin(experiment, (*place, "targets"))
            self._published(experiment, (*place, "published"))
            self._attacks_fit(experiment, place)
        for name, probe in spec.geometry.items():
            self._probe(probe, ("geometry", name))
        for name, finding in spec.findings.items():
            self._finding(finding, ("findings", name, "check", finding.check.kind))

    def base_models(self) -> None:
        """Check each model that refers to another model (`model: …`).

        The other model must exist and predict images. It must not refer to a further model, and must have no transform.
        """
        for name, model in self._spec.models.items():
            if model.model is None:
                continue
            place = ("models", name, "model")
            self._known(model.model, self._spec.models, "model", place)
            base = self._spec.models[model.model]
            if base.source_only:
                raise StudyError(
                    f"this model has a transform, so it is a target, but '{model.model}' can only be a source",
                    where=self._document.where(place),
                    todo=f"remove `role: source` from '{model.model}', or name another model",
                )
            if base.model is not None or base.transform is not None:
                raise StudyError(
                    f"'{model.model}' has a transform of its own",
                    where=self._document.where(place),
                    todo="name the model without a transform, and list all stages in `transform`, in their order",
                )

    def _visibility(self) -> None:
        """Check that the images are large enough for the network of LPIPS."""
        lpips, side = self._spec.visibility.lpips, self._spec.images.size
        if lpips is not None and side < lpips.smallest:
            raise StudyError(
                f"LPIPS with the network '{lpips.network}' needs images of at least {lpips.smallest} x "
                f"{lpips.smallest} pixels, and these have {side} x {side}",
                where=self._document.where(("visibility", "lpips")),
                todo="choose another `network`, or remove `lpips`",
            )

    def _black_boxes(self) -> None:
        """Check that transforms fit the image size, and that `names` of services translate labels of the label set."""
        for name, model in self._spec.models.items():
            if model.transform is not None:
                try:
                    side_after(model.transform, self._spec.images.size)
                except StudyError as error:
                    raise error.located(self._document.where(("models", name, "transform"))) from None
                self._defences(name, model)
            if model.remote is not None:
                try:
                    check_names(model.remote.names, self._spec.labels)
                except StudyError as error:
                    raise error.located(self._document.where(("models", name, "remote", "names"))) from None

    def _defences(self, name: str, model: Model) -> None:
        """Check the defences in the transform of a model.

        A defence must accept images with the spec's number of channels. A vote must be the last stage. A vote shows the
        model several versions of an image, so the model must not be a service. Defences in a user's own file are not
        checked here.
        """
        assert model.transform is not None, "the caller checks this"
        stages, channels = model.transform.stages, self._spec.images.channels
        place = self._document.where(("models", name, "transform"))
        for index, (stage, value) in enumerate(stages):
            if not isinstance(value, Part) or value.python is not None:
                continue
            defence = value.component()
            assert isinstance(defence, Defence), "of the kind defence"
            if defence.channels not in (None, channels):
                raise StudyError(
                    f"'{stage}' needs images with `channels: {defence.channels}`, but this spec has {channels}",
                    where=place,
                    todo=f"leave '{stage}' out, or set images.channels",
                )
            if isinstance(defence, Vote) and index + 1 < len(stages):
                raise StudyError(
                    f"'{stage}' lets the model vote on many versions of an image, but '{stages[index + 1][0]}' follows",
                    where=place,
                    accepted=f"'{stage}' as the last stage",
                    todo=f"move '{stage}' to the end of `transform`",
                )
            if isinstance(defence, Vote) and model.remote is not None:
                raise StudyError(
                    f"'{stage}' would send the service {defence.versions:,} requests for each image",
                    where=place,
                    todo=f"put '{stage}' in front of a network, or leave it out",
                )

    def _images(self) -> None:
        images, place = self._spec.images, ("images",)
        predicting = [name for name in self._spec.predicting if self._spec.models[name].remote is None]
        named = [("keep", images.keep)] if isinstance(images.keep, tuple) else []
        if isinstance(images.targets, Ranked) and images.targets.by:
            named.append(("targets", images.targets.by))
        for key, models in named:
            for index, model in enumerate(models):
                accepted = _accepted(predicting, _SELECTS, model)
                self._known(model, self._spec.models, "model", (*place, key, index), accepted=accepted)
                accepted = _accepted(predicting, _SELECTS)
                if self._spec.models[model].source_only:
                    raise self._only_a_source(model, (*place, key), "cannot select images or rank labels", accepted)
                if self._spec.models[model].remote is not None:
                    raise StudyError(
                        f"'{model}' is a remote service, which does not use the label set of this study",
                        where=self._document.where((*place, key)),
                        accepted=accepted,
                    )
        if images.keep == "correct-for-sources" and self._spec.sources() and not self._spec.predicting_sources():
            raise StudyError(
                "the source models select the images, but all of them have `role: source` and predict no image",
                where=self._document.where((*place, "keep")),
                accepted="correct-for-all, all, or a list of models",
            )
        if isinstance(images.targets, Ranked) and not (images.targets.by or self._spec.predicting_sources()):
            raise StudyError(
                "the source models rank target labels, but this spec has no source model that predicts images",
                where=self._document.where((*place, "targets")),
                accepted="random, list, or {rank: …, by: [<model>, …]}",
            )

    def _attacks_fit(self, experiment: Experiment, place: Place) -> None:
        """Check that the attacks of an experiment fit the sources and targets of this experiment."""
        spec = self._spec
        for index, name in enumerate(experiment.attacks):
            attack, there = spec.attacks[name], self._document.where((*place, "attacks", index))
            if experiment.sources.rule == "elsewhere" and attack.precomputed is None:
                raise StudyError(
                    f"the sources are `elsewhere`, but the images of '{name}' are not precomputed",
                    where=there,
                    todo="name source models, or give the attack `precomputed: <folder>`",
                )
            if attack.uses_weight_sets:
                self._weight_sets(name, experiment, there)
            self._one_name_for_a_set(experiment, there)
            services = [one for one in spec.targets(experiment) if spec.models[one].remote is not None]
            if services and attack.budget.minimal is not None:
                raise StudyError(
                    f"'{name}' searches the minimal RMSD: every target must give labels of the label set, but "
                    f"'{services[0]}' is a remote service",
                    where=there,
                    todo="leave the service out of this experiment's targets, or give the attack a fixed budget",
                )

    def _one_name_for_a_set(self, experiment: Experiment, where: str) -> None:
        """Check that no ensemble has one set of weights under two names.

        Both names would share one network, but this network can hold only one member of the set at a time.
        """
        models = self._spec.models
        for sources in self._spec.source_sets(experiment):
            sets = [name for name in sources if models[name].has_set]
            for number, name in enumerate(sets):
                twin = next((one for one in sets[:number] if models[one] == models[name]), None)
                if twin is not None:
                    raise StudyError(
                        f"an ensemble has '{twin}' and '{name}', but they are one network with one set of weights",
                        where=where,
                        accepted="every model once; the key `weights` of an attack weights source models",
                        todo=f"leave '{name}' out of the ensemble, or give it weights of its own",
                    )

    def _weight_sets(self, attack: str, experiment: Experiment, where: str) -> None:
        """Check that every source model of an attack has a set of weights, if the attack draws from such sets."""
        models = self._spec.models
        used = dict.fromkeys(name for sources in self._spec.source_sets(experiment) for name in sources)
        plain = next((name for name in used if not models[name].has_set), None)
        if plain is not None:
            with_sets = [name for name, model in models.items() if model.has_set]
            raise StudyError(
                f"'{attack}' draws from a set of weights, but the source '{plain}' has no set",
                where=where,
                accepted=_accepted(with_sets, "a model with `weights: {set: folder/*.safetensors}` and `role: source`"),
                todo="name the sources of this experiment: `sources: [<model with a set>]`",
            )

    def _only_a_source(self, name: str, place: Place, what: str, accepted: str) -> StudyError:
        """Return the error for a model with `role: source` where a prediction is needed.

        `what` says what the model cannot do. `accepted` says which models are accepted instead.
        """
        return StudyError(
            f"'{name}' can only be a source (`role: source`): it predicts nothing, so it {what}",
            where=self._document.where(place),
            accepted=accepted,
        )

    def _name(self, name: str, what: str, place: Place) -> None:
        # `+` joins presets in the name of an attack. It also joins models in the name of an ensemble, so the name of a
        # model must not contain it.
        pattern, marks = (
            (_ATTACK_NAME, "'.', '_', '+' and '-'") if place[0] == "attacks" else (_NAME, "'.', '_' and '-'")
        )
        if not pattern.fullmatch(name) or len(name) > 100:
            raise StudyError(
                f"'{name}' cannot be the name of {what}",
                where=self._document.where(place),
                accepted=f"up to 100 letters, digits, {marks}; the first is a letter or digit",
            )

    def _known(
        self, name: str, known: Collection[str], what: str, place: Place, *, accepted: str | None = None
    ) -> None:
        """Check that `name` is in `known`.

        The message says `accepted`, which tells what may stand here; None: all names in `known`.
        """
        if name not in known:
            raise StudyError(
                f"there is no {what} named '{name}'",
                where=self._document.where(place),
                accepted=names(known, name) if accepted is None else accepted,
            )

    def _attack_or_preset(self, name: str, place: Place) -> None:
        """Check that `name` is an attack of the spec or a preset."""
        known = {*self._spec.attacks, *presets.known()}
        if name not in known and (other_names.preset(name) or other_names.external(name)):
            raise other_names.unknown_preset(name, "attack", where=self._document.where(place))
        self._known(name, known, "attack", place)

    def _sources(self, sources: Sources, place: Place) -> None:
        candidates = [name for name, model in self._spec.models.items() if not model.target_only]
        for index, name in enumerate(sources.among or ()):
            accepted = _accepted(candidates, _HAS_GRADIENTS, name)
            self._known(name, self._spec.models, "model", (*place, sources.rule, index), accepted=accepted)
        for index, one in enumerate(sources.sets):
            for inner, name in enumerate(one):
                accepted = _accepted(candidates, _HAS_GRADIENTS, name)
                self._known(name, self._spec.models, "model", (*place, index, inner), accepted=accepted)
        for name in dict.fromkeys((*(sources.among or ()), *(name for one in sources.sets for name in one))):
            model = self._spec.models[name]
            if model.target_only:
                raise StudyError(
                    f"'{name}' has no gradients: "
                    + ("it is a remote service" if model.remote else "it has a transform"),
                    where=self._document.where(place),
                    todo=f"use '{name}' as a target only",
                )
        if not candidates and sources.rule != "elsewhere":
            raise StudyError(
                "no model of this spec has gradients",
                where=self._document.where(place),
                todo="add a model with a network and without a transform",
            )
        if sources.rule == "leave-one-out" and len(set(sources.among or candidates)) < 2:
            raise StudyError(
                "leave-one-out needs at least two models",
                where=self._document.where(place),
                todo="add a model, or write `sources: each`",
            )

    def _kin(self, experiment: Experiment, place: Place) -> None:
        """Check that `not-family-of` names only models, families and `sources`.

        Also check that it leaves a target for each source set.
        """
        spec, asked = self._spec, experiment.targets
        if asked is None or asked.not_family_of is None:
            return
        families = {found for name in spec.models if (found := spec.family(name)) is not None}
        for name in asked.not_family_of:
            self._known(name, ["sources", *spec.models, *sorted(families)], "model or family", place)
        for one in spec.source_sets(experiment):
            if not spec.targets(experiment, one):
                raise StudyError(
                    f"no target is left for {_sources_in_words(one)}: `not-family-of` leaves out all models"
                    + (" in `among`" if asked.among else ""),
                    where=self._document.where(place),
                    todo="add a model of another family, or name the targets in a list",
                )

    def _published(self, experiment: Experiment, place: Place) -> None:
        """Check that the paper, the tables and the attacks in an experiment's `published` exist."""
        if experiment.published is None:
            return
        theirs: set[str] = set()
        for one in experiment.published.tables:
            paper, _, table = one.partition(":")
            self._known(paper, registry.PAPERS, "paper", place)
            tables = registry.attacks_of(paper)
            if table not in tables:
                raise StudyError(
                    f"the paper {paper} has no published numbers for a table '{table}'",
                    where=self._document.where(place),
                    accepted=names([f"{paper}:{each}" for each in tables], one),
                )
            theirs |= tables[table]
        for ours, called in experiment.published.attacks.items():
            self._known(ours, experiment.attacks, "attack of this experiment", (*place, "attacks", ours))
            self._known(called, sorted(theirs), "attack in the published tables", (*place, "attacks", ours))

    def _probe(self, probe: Probe, place: Place) -> None:
        """Check that a probe's models have gradients, and that its attacks make one image from each clean image."""
        named = [("models", probe.models or ())]
        named += [(key, one.named) for key in ("along", "across") if (one := getattr(probe, key)) is not None]
        with_gradients = [name for name, model in self._spec.models.items() if not model.target_only]
        predicting = [name for name in with_gradients if not self._spec.models[name].source_only]
        for key, models in named:
            fitting, needed = (predicting, _PROBED) if key == "models" else (with_gradients, _HAS_GRADIENTS)
            for name in models:
                accepted = _accepted(fitting, needed, name)
                self._known(name, self._spec.models, "model", (*place, key), accepted=accepted)
                accepted = _accepted(fitting, needed)
                model = self._spec.models[name]
                if key == "models" and model.source_only:
                    raise self._only_a_source(name, (*place, key), "cannot be in a probe", accepted)
                if model.target_only:
                    why = "is a remote service" if model.remote else "has a transform"
                    raise StudyError(
                        f"'{name}' {why}, but a probe needs gradients and logits of a network",
                        where=self._document.where((*place, key)),
                        accepted=accepted,
                    )
        if probe.models is None and not predicting:
            raise StudyError(
                "no model of this spec has gradients",
                where=self._document.where(place),
                todo="add a model with a network and without a transform",
            )
        for key in ("along", "across"):
            direction = getattr(probe, key)
            if direction is None or direction.attack is None:
                continue
            there = (*place, key, "attack")
            self._attack_or_preset(direction.attack, there)
            recipe = self._spec.attacks[direction.attack]
            budget = recipe.budget
            several = len(budget.levels) > 1
            if recipe.precomputed or recipe.others or budget.matched or budget.minimal is not None or several:
                raise StudyError(
                    f"the attack '{direction.attack}' cannot be the direction of a probe: such an attack must make one "
                    "image from each clean image, and must use neither other images nor another attack",
                    where=self._document.where(there),
                    accepted="an attack with one fixed budget or no budget, without `precomputed` and without "
                    "components that mix in other images, such as `admix`",
                )

    def _finding(self, finding: Finding, place: Place) -> None:
        """Check that the names in a finding exist, and that each of its selections contains a planned cell.

        A cell is one number of a table.
        """
        spec, statement = self._spec, getattr(finding.check, finding.check.kind)
        probe = getattr(statement, "probe", None)
        pairs = getattr(statement, "pairs", None) or ()
        named: dict[str, tuple[Any, Any, str]] = {
            "pairs": ([model for pair in pairs for model in pair], spec.models, "model"),
            "models": (getattr(statement, "models", None) or (), spec.models, "model"),
            "probe": ((probe,) if probe else (), spec.geometry, "probe"),
        }
        if getattr(statement, "order", None):
            kinds = {"attack": (spec.attacks, "attack"), "target": (spec.models, "model")}
            sets = {"+".join(one) for each in spec.experiments.values() for one in spec.source_sets(each)}
            named["order"] = (statement.order, *kinds.get(statement.along, (sets, "set of sources")))
        for key, (given, known, what) in named.items():
            for name in given:
                self._known(name, known, what, (*place, key))
        for key, selection in finding.check.selections.items():
            self._selection(selection, (*place, key))

    def _selection(self, selection: CellSelection, place: Place) -> None:
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

    def _models_of_attack(self, name: str) -> None:
        """Check that the models in `weights` and in `skip_gradient.models` of an attack exist."""
        attack = self._spec.attacks[name]
        for model in attack.weights:
            self._known(model, self._spec.models, "model", ("attacks", name, "weights", model))
        for model in attack.skip_gradient.models if attack.skip_gradient else ():
            self._known(model, self._spec.models, "model", ("attacks", name, "skip_gradient", "models", model))

    def _matched_budgets(self, name: str) -> None:
        """Follow `budget.to` from attack to attack.

        Each attack must exist, must not occur twice, and must have a single budget.
        """
        chain = [name]
        # `to` may name a preset that is not among the spec's attacks. Such a preset is valid, and the chain ends there.
        while chain[-1] in self._spec.attacks and (to := self._spec.attacks[chain[-1]].budget.to) is not None:
            place = ("attacks", chain[-1], "budget", "to")
            self._attack_or_preset(to, place)
            if to in chain:
                raise StudyError(
                    f"matched budgets form a cycle: {' -> '.join([*chain[chain.index(to) :], to])}",
                    where=self._document.where(place),
                    todo="give one of these attacks a budget of its own: epsilon, rmsd, or none",
                )
            chain.append(to)
        for reference in filter(self._spec.attacks.__contains__, chain[1:]):
            budget = self._spec.attacks[reference].budget
            if len(budget.levels) > 1 or budget.minimal is not None:
                raise StudyError(
                    f"'{reference}' has several budgets or searches the minimal RMSD, so its RMSD is not a single "
                    "number for each image",
                    where=self._document.where(("attacks", chain[chain.index(reference) - 1], "budget", "to")),
                    todo="match the budget to an attack with a single budget",
                )


def _accepted(fitting: Collection[str], needed: str, given: str | None = None) -> str:
    """Return which models are accepted: the names in `fitting`, those most similar to `given` first.

    If there is none, return `needed`, which describes the model that must be added.
    """
    return names(fitting, given) if fitting else needed


def _sources_in_words(sources: Sequence[str]) -> str:
    """Return the models of a source set for a message. Images that another tool made have no source in the spec."""
    return f"the sources {' + '.join(sources)}" if sources else "images whose source is no model of this spec"
