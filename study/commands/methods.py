"""`study methods`: print paragraphs that describe the methods of a run, for a paper."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from study.attacks import presets
from study.attacks.budget_spec import Range
from study.attacks.recipe import Attack
from study.commands.attacks import parts, shown
from study.defences.transforms import summary
from study.models.services.service_spec import Remote
from study.report.wording import IMAGE_KINDS, correct_when_clean, listed
from study.reproducibility.float_environment import Arithmetic, recorded
from study.results import integrity, scanning
from study.results.run_reader import RunData, open_run
from study.spec.schema import Experiment, Spec
from study.storage import part_file
from study.storage.run_folder import RunFolder
from study.terminal.prose import say

_NUMBERS = ("budget", "steps", "step_size", "checkpoints", "learning_rate", "tune", "made")
"""Keys of an attack that do not decide its method: two attacks of one method may differ in these keys."""

_NORMS = {"epsilon": "an L-infinity budget", "l2": "an L2 budget", "rmsd": "an RMSD (root mean square deviation)"}
_TOLD = ("budget", "steps", "step_size", "learning_rate", "checkpoints", "first")
"""Keys of an attack that the sentence on the attack describes in words. All other keys are listed in the sentence."""

_USUAL = {"objective": "cross-entropy", "fusion": "probability", "step": "sign"}
"""The usual values of some keys of an attack. One sentence states these values for all attacks."""
_RULES = {"each": "each source model alone", "leave-one-out": "ensembles of all source models but one",
          "all": "the ensemble of all source models", "elsewhere": "models outside this study"}  # fmt: skip
_SUCCESS = {
    "untargeted": "an untargeted image succeeds if the target model does not predict the true label",
    "targeted": "a targeted image succeeds if the target model predicts the target label",
}


@integrity.reads
def print_methods(run: str, console: Console, spec: Path | None = None) -> None:
    """Print paragraphs that describe the methods of the run at `run`, for a paper.

    `spec`: a spec file that replaces the recorded spec; None: the recorded spec. Raises StudyError if there is no run.
    """
    finished = open_run(run, spec)
    for text in paragraphs(finished, recorded(RunFolder(run)), versions(run)):
        say(console, text)
        say(console, "")


def paragraphs(finished: RunData, computed: Sequence[Arithmetic], releases: Sequence[str]) -> Iterator[str]:
    """Yield the paragraphs: images and models; attacks; experiments; rates and intervals; numerics and versions.

    `computed`: the recorded hardware and library versions of the workers. `releases`: the versions of `study` that
    wrote rows.
    """
    spec = finished.spec
    yield f"{_images(finished)} {_models(finished)}"
    used = dict.fromkeys(name for experiment in spec.experiments.values() for name in experiment.attacks)
    yield " ".join(_attack(name, spec.attacks[name]) for name in used) + (
        " Attacks increase the cross-entropy of the true label (targeted: decrease that of the target label), average "
        "the probabilities of several source models, and step along the sign of the gradient, unless another "
        "objective, fusion or step is named. Adversarial images are rounded to 8-bit values within the budget before a "
        "target sees them."
    )
    yield " ".join(_experiment(name, spec, one) for name, one in spec.experiments.items())
    yield _numbers(spec)
    yield _computation(spec, computed, releases)


def versions(run: str) -> list[str]:
    """Return the versions of `study` that wrote the rows of the run, each once."""
    import polars as pl

    from study.storage.s3_path import S3Path, scan_options

    found: dict[str, None] = {}
    for part in scanning.parts(run):
        if part_file.parse_name(part.name) is not None:
            options = scan_options() if isinstance(part, S3Path) else None
            metadata = pl.read_parquet_metadata(str(part), storage_options=options)
            found.setdefault(metadata.get("version", "unknown"))
    return list(found)


def preset_of(name: str, attack: Attack) -> str | None:
    """Return the name of the preset with the same parts as an attack, even if numbers differ; None if there is none.

    If a preset called `name` has the same parts, the result is `name`. Otherwise, of all presets with the same parts,
    the result is the preset with the most equal numbers.
    """
    wanted, numbers = _method(attack), dict(_leaves(attack.plain()))
    best: tuple[int, str] | None = None
    for one in dict.fromkeys((name, *presets.presets(), *presets.combinations())):
        if presets.preset(one) is None:
            continue
        other = Attack.model_validate(presets.keys_of(one, {}))
        if _method(other) == wanted:
            if one == name:
                return one
            equal = sum(numbers.get(key) == value for key, value in _leaves(other.plain()))
            if best is None or equal > best[0]:
                best = (equal, one)
    return None if best is None else best[1]


def _method(attack: Attack) -> Mapping[str, Any]:
    """Return the parts of an attack without their numbers. Two attacks of the same method have equal results."""
    plain = {key: value for key, value in parts(attack).items() if key not in _NUMBERS}
    return {key: value if isinstance(value, str) else sorted(_names(value)) for key, value in plain.items()}


def _names(value: Any) -> Iterator[str]:
    """Yield the name of each component in a list of components. For any other value, yield nothing."""
    for one in value if isinstance(value, list) else ():
        yield one if isinstance(one, str) else str(next(iter(one)))


def _leaves(value: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _leaves(inner, f"{place}.{key}")
    else:
        yield place, value


def _images(finished: RunData) -> str:
    images, count = finished.spec.images, finished.selected
    size = f"{images.size} x {images.size} pixels"
    kind = IMAGE_KINDS.get(str(images.labels), f"{len(finished.spec.labels)}-class")
    where = " (samples of the package foolbox)" if images.sample else ""
    right = correct_when_clean(finished.spec, finished.selection.shards)
    rule = ", whether or not the models classify them correctly when clean" if right is None else f" {right}"
    seen = max((right.images for right in finished.clean.values()), default=0)
    part = f"{count:,} of {seen:,}" if seen > count else f"{count:,}"
    return f"We use {part} {kind} images{where} of {size}{rule}; seed {finished.spec.seed} orders them."


def _models(finished: RunData) -> str:
    spec = finished.spec
    sources = set(spec.sources())
    said = []
    for name, model in spec.models.items():
        role = "source and target" if name in sources and name in spec.predicting else (
            "source" if name in sources else "target"
        )  # fmt: skip
        made = model.network or ("" if model.remote is None else _service(model.remote))
        weights = f", weights {model.weights}" if model.weights else ""
        behind = "" if model.transform is None else f", behind {summary(model.transform)}"
        digest = str(finished.models.get(name, {}).get("digest", ""))[:12]
        said.append(f"{name} ({made}{weights}{behind}; {role}{f'; digest {digest}' if digest else ''})")
    return f"The models are {listed(said)}."


def _service(remote: Remote) -> str:
    """Return a description of a remote service. That of a chat service names its model, its prompt and its judge."""
    if remote.api == "labels":
        return "a remote service"
    judge = remote.judging
    judged = "keywords" if judge is None else str(judge.model)
    return f"the chat service {remote.model}, asked '{remote.prompt}' and judged by {judged}"


def _attack(name: str, attack: Attack) -> str:
    """Return a sentence on an attack: its paper, parts, budget and steps."""
    found = preset_of(name, attack)
    # A preset's own name may contain `+`, as `ila++` does.
    joined = () if found is None else (found,) if found in presets.presets() else found.split("+")
    papers = list(dict.fromkeys(_paper(one) for one in joined))
    cited = f" ({'; '.join(papers)})" if papers else ""
    called = f"{name}{cited}" if found in (None, name) else f"{name} is {found}{cited}; it"
    if attack.precomputed is not None:
        return f"The images of {name} were made outside this study."
    if attack.external is not None:
        return f"{called} is {attack.external.external} {attack.external.version or ''} with {_budget(attack)}."
    # Targets see the checkpoints of an attack. Those of a first stage are for the components of the second stage.
    first = "" if attack.first is None else f"; its first stage has {_stage(attack.first, 'read')}"
    return f"{called} has {_stage(attack, 'scored')}{first}."


def _stage(attack: Attack, use: str) -> str:
    """Return the budget, the steps and the parts of one stage. `use`: what happens to the images at its checkpoints."""
    told = (*_TOLD, "step") if attack.step == "adam" else _TOLD
    more = {key: value for key, value in parts(attack).items() if key not in told and value != _USUAL.get(key)}
    return f"{_budget(attack)} and {_steps(attack, use)}" + "".join(
        f", {key} {shown(one)}" for key, one in more.items()
    )


def _paper(preset: str) -> str:
    found = presets.preset(preset)
    return "" if found is None else ", ".join(filter(None, (found.paper, found.link)))


def _budget(attack: Attack) -> str:
    budget = attack.budget
    if budget.minimal is not None:
        return f"the smallest RMSD that succeeds, searched {_range(budget.minimal)} for each target"
    if budget.matched:
        how = "of each image" if budget.by == "image" else "of the mean image"
        return f"the RMSD of {budget.to} ({how})"
    if budget.kind == "none":
        return "no budget but the range of pixel values"
    given = budget.length if budget.rule is not None else getattr(budget, budget.kind)
    levels = _range(given) if isinstance(given, Range) else listed([f"{level:g}" for level in budget.levels], "or")
    if budget.rule is not None:
        return f"a budget of {levels} as {budget.kind} measures it"
    return f"{_NORMS[budget.kind]} of {levels} (pixel values 0..255)"


def _range(given: Range) -> str:
    return f"from {given.start:g} to {given.to:g} in steps of {given.by:g}"


def _steps(attack: Attack, use: str) -> str:
    if not attack.steps:
        return "no step"
    size = attack.learning_rate if attack.step == "adam" else attack.step_size or attack.automatic_step_size
    count = f"{attack.steps:,} step{'s' if attack.steps > 1 else ''}"
    if attack.step == "adam":
        count += f" of Adam with learning rate {size:g}"
    elif size is not None:
        count += f" of {size:.4g}"
    if attack.checkpoints:
        count += f", {use} after {listed([str(stop) for stop, _ in attack.scored_points])}"
    return count


def _experiment(name: str, spec: Spec, experiment: Experiment) -> str:
    sets = spec.source_sets(experiment)
    rule = experiment.sources.rule
    sources = _RULES.get(rule, "")
    if rule == "sets" or experiment.sources.among is not None:
        sources = f"{sources} ({listed(['+'.join(one) for one in sets])})" if sources else listed(
            ["+".join(one) for one in sets]
        )  # fmt: skip
    seeds = spec.seeds_of(experiment)
    repeated = f", with the seeds {listed([str(seed) for seed in seeds])}" if len(seeds) > 1 else ""
    return (
        f"Experiment {name} runs {listed(experiment.attacks)} ({listed(experiment.goal)}) on {sources}{repeated}, "
        f"and shows the images to {listed(spec.targets(experiment))}{_kin(experiment)}."
    )


def _kin(experiment: Experiment) -> str:
    asked = experiment.targets
    if asked is None or asked.not_family_of is None:
        return ""
    whose = "its sources" if "sources" in asked.not_family_of else listed(asked.not_family_of)
    return f", without the networks of the family of {whose}"


def _numbers(spec: Spec) -> str:
    goals = dict.fromkeys(goal for one in spec.experiments.values() for goal in one.goal)
    said = "; ".join(_SUCCESS[goal] for goal in _SUCCESS if goal in goals)
    several = any(len(spec.seeds_of(one)) > 1 for one in spec.experiments.values())
    means = " Rates are means over seeds." if several else ""
    return (
        f"{said[0].upper()}{said[1:]}.{means} Intervals are Wilson's 95 % intervals, with each image counted once. "
        "A target is white-box if it is one of the sources, grey-box if it has the network of a source, and black-box "
        "otherwise; means of transfer are over black-box targets."
    )


def _computation(spec: Spec, computed: Sequence[Arithmetic], releases: Sequence[str]) -> str:
    numerics = spec.numerics
    setting = f"{numerics.precision}, passes of {numerics.batch} images, {numerics.threads} thread"
    setting += "s" if numerics.threads > 1 else ""
    said = [f"Everything was computed with study {listed(releases) or 'of an unknown version'} in {setting}"]
    for one in computed:
        libraries = ", ".join(f"{name} {version}" for name, version in one.releases.items())
        said.append(f"on {one.processor} ({one.capability}) with {libraries}")
    return " ".join([said[0], listed(said[1:])]).strip() + "."
