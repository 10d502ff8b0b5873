"""`study models`: print the models of a spec."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

from rich import box
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from study.defences.stages import Stages
from study.errors import StudyError
from study.images.image_sets import candidates
from study.models import accuracy, loading, memory
from study.models.classifier import Classifier
from study.models.reference import Model
from study.models.robust_models import ROBUST
from study.models.weights import locate
from study.reproducibility import hardware
from study.reproducibility.numerics import fix
from study.spec.own_parts import with_code
from study.spec.schema import Spec
from study.spec.spec_file import SpecFile
from study.terminal.prose import exactly, say
from study.terminal.screen import counted

_MIB = 2**20
_PREPARED_BY = {"native": "its zoo", "study": "this study"}


@dataclass(frozen=True)
class Inspected:
    """The properties of one model. If its weights are not on this machine, `digest` and both accuracies are None.

    `forward` and `gradient`: bytes of memory that the model needs as a target and as a source, at the spec's batch
    size. `native` and `study`: the accuracy on images that are prepared as the model's library does, or as this study
    does.
    """

    name: str
    reference: str
    weights: str
    state: str
    input: str
    transform: str
    family: str | None = None
    published: str | None = None
    size: int | None = None
    parameters: int | None = None
    forward: int | None = None
    gradient: int | None = None
    digest: str | None = None
    native: accuracy.Accuracy | None = None
    study: accuracy.Accuracy | None = None


@dataclass(frozen=True)
class ModelsOptions:
    """The options of `study models`."""

    accuracy: bool = False
    allow_code: bool = False
    as_json: bool = False


def print_models(file: SpecFile, console: Console, options: ModelsOptions) -> None:
    """Print the models of a spec. Raises StudyError, with the place in the spec, if a model is not available."""
    fix(file.spec.numerics.threads)
    if any(one.python for model in file.spec.models.values() if model.transform for one in model.transform.parts):
        file, _ = with_code(file, allow_code=options.allow_code)
    found = list(_inspect(file, console, options))
    if options.as_json:
        exactly(console, json.dumps([asdict(one) for one in found], indent=2))
        return
    _print(found, file.spec, console)
    missing = [one.name for one in found if one.state == "not cached"]
    if missing:
        say(console, f"weights not on this machine: {', '.join(missing)}. Download: study fetch {file.document.name}")


def _inspect(file: SpecFile, console: Console, options: ModelsOptions) -> Iterator[Inspected]:
    for name, model in file.spec.models.items():
        try:
            found = _one(file.spec, name, model, console, options)
            robust = ROBUST.get(file.short_name(name))
            yield replace(found, family=file.spec.family(name), published=None if robust is None else robust.published)
        except StudyError as error:
            raise error.located(file.where("models", name)) from None


def _one(spec: Spec, name: str, model: Model, console: Console, options: ModelsOptions) -> Inspected:
    from study.defences.transforms import summary

    transform = "" if model.transform is None else summary(model.transform)
    if model.remote is not None:
        return Inspected(name, model.remote.url, "", "service", "", transform)
    loading.check(name, model, labels=spec.labels, allow_code=options.allow_code)
    state = locate.state(model)
    # Without its weights, a model of transformers would be built from another revision than the spec's.
    cached = state != "not cached" or model.zoo == "transformers"
    inspected = model if cached else model.model_copy(update={"weights": "random:0", "sha256": None})
    stages = None if model.transform is None else Stages(model.transform, hardware.device_here(spec.run.device))
    classifier = loading.load(
        name, inspected, labels=spec.labels, channels=spec.images.channels, allow_code=options.allow_code
    )
    wanted = classifier.preprocessing
    needs = memory.estimate(classifier.network, channels=len(wanted.mean), size=wanted.size, batch=spec.numerics.batch)
    described = model.describe(classifier.describe(), None if stages is None else stages.digest)
    rates: dict[str, Any] = {}
    if options.accuracy and cached:
        rates = _accuracies(spec, name, model, (classifier, stages), console)
    return Inspected(
        name=name,
        reference=str(model.network),
        weights=model.weights or "",
        state=state,
        input=_input(classifier),
        transform=transform,
        size=wanted.size,
        parameters=described["parameters"],
        forward=None if model.source_only else needs.forward,
        gradient=None if model.target_only else needs.gradient,
        digest=described["digest"] if cached else None,
        **rates,
    )


def _accuracies(
    spec: Spec, name: str, model: Model, loaded: tuple[Classifier, Stages | None], console: Console
) -> dict[str, accuracy.Accuracy]:
    classifier, stages = loaded
    found = candidates(spec.images, spec.seed)
    prepared = {
        "native": accuracy.as_the_zoo(loading.native(model, classifier), spec.images.channels),
        "study": accuracy.as_the_study(spec.images),
    }
    device = hardware.device_here(spec.run.device)
    classifier.arrange(fold=spec.numerics.fold, layout=spec.numerics.layout, device=device)
    rates = {}
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bars:
        for key, prepare in prepared.items():
            bar = bars.add_task(f"{name}, images prepared by {_PREPARED_BY[key]}", total=len(found))
            rates[key] = accuracy.measure(
                classifier,
                found,
                prepare,
                batch=spec.numerics.batch,
                device=device,
                precision=spec.numerics.target_precision,
                stages=stages if key == "study" else None,
                key=(spec.seed, name),
                advance=functools.partial(bars.advance, bar),
            )
    return rates


def _input(classifier: Classifier) -> str:
    wanted = classifier.preprocessing
    channels = wanted.channels if len(wanted.mean) > 1 else "grey"
    mean, std = (_numbers(values) for values in (wanted.mean, wanted.std))
    scale = "" if wanted.scale == 255 else f", range 0..{255 / wanted.scale:g}"
    return f"{wanted.size} x {wanted.size}, {wanted.interpolation}, {channels}{scale}, mean {mean}, std {std}"


def _numbers(values: tuple[float, ...]) -> str:
    return " ".join(f"{value:.4g}" for value in (values[:1] if len(set(values)) == 1 else values))


def _kin(found: list[Inspected]) -> list[str]:
    """Return a line for each family of networks with several models in the spec.

    With the key `not-family-of: sources` of a spec, an attack on one of these models is not shown to the other models
    of the family.
    """
    families: dict[str, list[str]] = {}
    for one in found:
        if one.family is not None:
            families.setdefault(one.family, []).append(one.name)
    return [f"same family ({family}): {', '.join(names)}" for family, names in families.items() if len(names) > 1]


def _print(found: list[Inspected], spec: Spec, console: Console) -> None:
    """Print a table of numbers. Below it, print origin, input and transform, which are too long for a table."""
    table = Table(box=box.SIMPLE_HEAD, title="models", title_justify="left", title_style="bold")
    table.add_column("model", overflow="fold")
    table.add_column("family", overflow="fold")
    table.add_column("weights", no_wrap=True)
    for heading in ("params", "input\npixels", "MiB as\ntarget", "MiB as\nsource"):
        table.add_column(heading, justify="right")
    table.add_column("digest", no_wrap=True)
    for one in found:
        sizes = ["" if needed is None else f"{needed / _MIB:,.0f}" for needed in (one.forward, one.gradient)]
        count = "" if one.parameters is None else f"{one.parameters / 1e6:.2f} M"
        size = "" if one.size is None else str(one.size)
        table.add_row(one.name, one.family or "–", one.state, count, size, *sizes, (one.digest or "–")[:8])
    console.print(table)
    batch = spec.numerics.batch
    say(
        console,
        f"MiB: peak memory of a pass over {counted(batch, 'image')}, weights included; as a source, with gradients",
    )
    for one in found:
        origin = ", ".join(part for part in (one.reference, one.weights) if part)
        say(console, f"{one.name}: {origin}")
        if one.input:
            say(console, f"    input {one.input}")
        if one.transform:
            say(console, f"    transform {one.transform}")
        if one.published:
            say(console, f"    {one.published}")
    for line in _kin(found):
        say(console, line)
    _print_accuracies(found, console)


def _print_accuracies(found: list[Inspected], console: Console) -> None:
    measured = [one for one in found if one.native is not None and one.study is not None]
    if not measured:
        return
    assert measured[0].native is not None, "`measured` holds only models with both accuracies"
    title = f"top-1 and top-5 accuracy on {counted(measured[0].native.images, 'image')}, %"
    table = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left", title_style="bold")
    table.add_column("model")
    for heading in ("top-1, prepared\nby its zoo", "top-5", "top-1, prepared\nby this study", "top-5"):
        table.add_column(heading, justify="right")
    for one in measured:
        rates = [rate for both in (one.native, one.study) if both is not None for rate in (both.top1, both.top5)]
        table.add_row(one.name, *(f"{100 * rate:.1f}" for rate in rates))
    console.print()
    console.print(table)
    say(
        console,
        "by its zoo: photographs prepared as the library of the model does (for a network of yours: resized to its "
        "input size); by this study: prepared as `images` of the spec says, then resized to the input size",
    )
