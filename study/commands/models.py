"""`study models`: what a spec's models are, before anything is run."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from rich import box
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from study.errors import StudyError
from study.images.image_sets import candidates
from study.models import accuracy, memory, zoo
from study.models.classifier import Classifier
from study.models.reference import Model
from study.models.weights import locate
from study.reproducibility.numerics import fix
from study.spec.loading import SpecFile
from study.spec.schema import Spec
from study.terminal.prose import exactly, say

_MIB = 2**20
_WHO = {"native": "its zoo", "study": "this study"}


@dataclass(frozen=True)
class Inspected:
    """What is known of one model: of its network without weights too, `digest` with them alone.

    Memory is in bytes, at the batch size of the spec: as a target (`forward`), and as a source (`gradient`).
    """

    name: str
    reference: str
    weights: str
    state: str
    input: str
    transform: str
    size: int | None = None
    parameters: int | None = None
    forward: int | None = None
    gradient: int | None = None
    digest: str | None = None
    native: accuracy.Accuracy | None = None
    study: accuracy.Accuracy | None = None


@dataclass(frozen=True)
class ModelsOptions:
    """What was asked on the command line."""

    accuracy: bool = False
    allow_code: bool = False
    as_json: bool = False


def print_models(file: SpecFile, console: Console, wish: ModelsOptions) -> None:
    """Print every model of a spec. Raises StudyError, with its place in the spec, for one that cannot be had."""
    fix(file.spec.numerics.threads)
    found = list(_inspect(file, console, wish))
    if wish.as_json:
        exactly(console, json.dumps([asdict(one) for one in found], indent=2))
        return
    _print(found, file.spec, console)
    missing = [one.name for one in found if one.state == "not cached"]
    if missing:
        say(console, f"not here yet: {', '.join(missing)}; `study fetch {file.document.name}` downloads them once")


def _inspect(file: SpecFile, console: Console, wish: ModelsOptions) -> Iterator[Inspected]:
    for name, model in file.spec.models.items():
        try:
            yield _one(file.spec, name, model, console, wish)
        except StudyError as error:
            raise error.located(file.where("models", name)) from None


def _one(spec: Spec, name: str, model: Model, console: Console, wish: ModelsOptions) -> Inspected:
    from study.defences.transforms import words

    behind = "" if model.transform is None else words(model.transform)
    if model.remote is not None:
        return Inspected(name, model.remote.url, "", "service", "", behind)
    zoo.check(name, model, labels=spec.labels, allow_code=wish.allow_code)
    state = locate.state(model)
    there = state != "not cached"
    shown = model if there else model.model_copy(update={"weights": "random:0", "sha256": None})
    classifier = zoo.load(name, shown, labels=spec.labels, channels=spec.images.channels, allow_code=wish.allow_code)
    wanted = classifier.preprocessing
    needs = memory.estimate(classifier.network, channels=len(wanted.mean), size=wanted.size, batch=spec.numerics.batch)
    described = model.describe(classifier.describe())
    rates: dict[str, Any] = {}
    if wish.accuracy and there:
        rates = _accuracies(spec, name, model, classifier, console)
    return Inspected(
        name=name,
        reference=str(model.network),
        weights=model.weights or "",
        state=state,
        input=_input(classifier),
        transform=behind,
        size=wanted.size,
        parameters=described["parameters"],
        forward=needs.forward,
        gradient=None if model.target_only else needs.gradient,
        digest=described["digest"] if there else None,
        **rates,
    )


def _accuracies(
    spec: Spec, name: str, model: Model, classifier: Classifier, console: Console
) -> dict[str, accuracy.Accuracy]:
    found = candidates(spec.images, spec.seed)
    prepared = {
        "native": accuracy.as_the_zoo(zoo.native(model, classifier), spec.images.channels),
        "study": accuracy.as_the_study(spec.images, model.transform, (spec.seed, name)),
    }
    classifier.arrange(fold=spec.numerics.fold, layout=spec.numerics.layout, device="cpu")
    rates = {}
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bars:
        for key, prepare in prepared.items():
            bar = bars.add_task(f"{name}, as {_WHO[key]} prepares images", total=len(found))
            rates[key] = accuracy.measure(
                classifier, found, prepare, batch=spec.numerics.batch, advance=functools.partial(bars.advance, bar)
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


def _print(found: list[Inspected], spec: Spec, console: Console) -> None:
    """A narrow table of numbers, and lines for what may be long: paths, addresses, preprocessing."""
    table = Table(box=box.SIMPLE_HEAD, title="models", title_justify="left", title_style="bold")
    table.add_column("model", overflow="fold")
    table.add_column("weights", no_wrap=True)
    for heading in ("parameters", "pixels", "MiB as\ntarget", "MiB as\nsource"):
        table.add_column(heading, justify="right")
    table.add_column("digest", no_wrap=True)
    for one in found:
        sizes = ["" if needed is None else f"{needed / _MIB:,.0f}" for needed in (one.forward, one.gradient)]
        count = "" if one.parameters is None else f"{one.parameters / 1e6:.2f} M"
        size = "" if one.size is None else str(one.size)
        table.add_row(one.name, one.state, count, size, *sizes, (one.digest or "–")[:8])
    console.print(table)
    batch = spec.numerics.batch
    say(console, f"MiB: weights and what a pass over {batch} images needs at its peak, with a gradient as a source")
    for one in found:
        origin = ", ".join(part for part in (one.reference, one.weights) if part)
        say(console, f"{one.name}: {origin}")
        if one.input:
            say(console, f"    input {one.input}")
        if one.transform:
            say(console, f"    behind {one.transform}")
    _print_accuracies(found, console)


def _print_accuracies(found: list[Inspected], console: Console) -> None:
    measured = [one for one in found if one.native is not None and one.study is not None]
    if not measured:
        return
    assert measured[0].native is not None, "filtered above"
    title = f"top-1 and top-5 accuracy on {measured[0].native.images} images, %"
    table = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left", title_style="bold")
    table.add_column("model")
    for heading in ("top-1, as its\nzoo prepares", "top-5", "top-1, as this\nstudy does", "top-5"):
        table.add_column(heading, justify="right")
    for one in measured:
        rates = [rate for both in (one.native, one.study) if both is not None for rate in (both.top1, both.top5)]
        table.add_row(one.name, *(f"{100 * rate:.1f}" for rate in rates))
    console.print()
    console.print(table)
