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
from study.images.sets import candidates
from study.models import accuracy, cache, memory, zoo
from study.models.classifier import Classifier
from study.models.reference import Model
from study.numerics import fix
from study.spec import Spec, SpecFile

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
    parameters: int | None = None
    forward: int | None = None
    gradient: int | None = None
    digest: str | None = None
    native: accuracy.Accuracy | None = None
    study: accuracy.Accuracy | None = None


@dataclass(frozen=True)
class Wish:
    """What was asked on the command line."""

    accuracy: bool = False
    allow_code: bool = False
    as_json: bool = False


def print_models(file: SpecFile, console: Console, wish: Wish) -> None:
    """Print every model of a spec. Raises StudyError, with its place in the spec, for one that cannot be had."""
    fix(file.spec.numerics.threads)
    found = list(_inspect(file, console, wish))
    if wish.as_json:
        console.print(
            json.dumps([asdict(one) for one in found], indent=2), markup=False, highlight=False, soft_wrap=True
        )
        return
    console.print(_table(found, file.spec, wish))
    missing = [one.name for one in found if one.state == "not cached"]
    if missing:
        line = f"not on this machine yet: {', '.join(missing)}. `study fetch {file.document.name}` downloads them once"
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def _inspect(file: SpecFile, console: Console, wish: Wish) -> Iterator[Inspected]:
    for name, model in file.spec.models.items():
        try:
            yield _one(file.spec, name, model, console, wish)
        except StudyError as error:
            raise error.located(file.where("models", name)) from None


def _one(spec: Spec, name: str, model: Model, console: Console, wish: Wish) -> Inspected:
    from study.models.transforms import words

    behind = "" if model.transform is None else words(model.transform)
    if model.remote is not None:
        return Inspected(name, model.remote.url, "", "service", "", behind)
    zoo.check(name, model, labels=spec.labels, allow_code=wish.allow_code)
    state = cache.state(model)
    there = state != "not cached"
    shown = model if there else model.model_copy(update={"weights": "random:0", "sha256": None})
    classifier = zoo.load(name, shown, labels=spec.labels, channels=spec.images.channels)
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
        parameters=described["parameters"],
        forward=needs.forward,
        gradient=needs.gradient,
        digest=described["digest"] if there else None,
        **rates,
    )


def _accuracies(
    spec: Spec, name: str, model: Model, classifier: Classifier, console: Console
) -> dict[str, accuracy.Accuracy]:
    found = candidates(spec.images, spec.seed)
    prepared = {
        "native": accuracy.as_the_zoo(zoo.native(model, classifier), spec.images.channels),
        "study": accuracy.as_the_study(spec.images),
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
    mean, std = (" ".join(f"{value:.4g}" for value in dict.fromkeys(values)) for values in (wanted.mean, wanted.std))
    scale = "" if wanted.scale == 255 else f", range 0..{255 / wanted.scale:g}"
    return f"{wanted.size} {wanted.interpolation}, {channels}{scale}, mean {mean}, std {std}"


def _table(found: list[Inspected], spec: Spec, wish: Wish) -> Table:
    batch = spec.numerics.batch
    table = Table(box=box.SIMPLE_HEAD, caption_justify="left")
    for heading in ("model", "network", "weights", "input"):
        table.add_column(heading, overflow="fold")
    table.add_column("parameters", justify="right")
    table.add_column(f"MiB at {batch}:\ntarget, source", justify="right")
    table.add_column("digest")
    if wish.accuracy:
        table.add_column("top-1 / top-5,\nas its zoo prepares", justify="right")
        table.add_column("top-1 / top-5,\nas this study does", justify="right")
    for one in found:
        cells = [
            one.name,
            one.reference + (f"\nbehind {one.transform}" if one.transform else ""),
            one.weights + (f"\n({one.state})" if one.weights else one.state),
            one.input,
            "" if one.parameters is None else f"{one.parameters:,}",
            ""
            if one.forward is None or one.gradient is None
            else f"{one.forward / _MIB:,.0f}, {one.gradient / _MIB:,.0f}",
            (one.digest or "–")[:12],
        ]
        if wish.accuracy:
            cells += [_rates(one.native), _rates(one.study)]
        table.add_row(*cells)
    counts = {one.native.images for one in found if one.native is not None}
    if counts:
        table.caption = f"on {counts.pop()} images"
    return table


def _rates(rates: accuracy.Accuracy | None) -> str:
    return "" if rates is None else f"{100 * rates.top1:.1f} / {100 * rates.top5:.1f}"
