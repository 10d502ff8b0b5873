"""The door: `study` and its commands. No logic lives here."""

from __future__ import annotations

import contextlib
import os
import shlex
import sys

if (
    __name__ == "__main__"
    and not sys.flags.safe_path
    and os.path.realpath(sys.path[0]) != os.path.dirname(os.path.realpath(__file__))
):
    # `python -m cli` puts the working folder before everything; it counts only where this file lies in it.
    del sys.path[0]

from pathlib import Path
from typing import Annotated, Optional

import typer

app = typer.Typer(
    help="Studies of how adversarial images transfer between image classifiers, on Ray.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
)

SpecFile = Annotated[Path, typer.Argument(help="The study's YAML file.")]
Address = Annotated[
    Optional[str],  # noqa: UP045 - typer reads it at run time
    typer.Option(help="A Ray cluster; RAY_ADDRESS, else a local Ray, unless given."),
]
Set = Annotated[
    Optional[list[str]],  # noqa: UP045 - typer reads it at run time
    typer.Option("--set", metavar="KEY=VALUE", help="Lay a value over the spec, such as images.count=5."),
]
RunFolderPath = Annotated[Path, typer.Argument(help="A run folder, or s3://bucket/prefix.")]
RunPlace = Annotated[str, typer.Argument(help="A run folder.")]
AgainstSpec = Annotated[
    Optional[Path],  # noqa: UP045 - typer reads it at run time
    typer.Option("--spec", help="The study's YAML file, where `published` or `findings` changed after the launch."),
]
AllowCode = Annotated[
    bool, typer.Option("--allow-code", help="Run code that the spec names: networks of `python:` references.")
]


@app.command()
def launch(  # noqa: PLR0917 - options of a command
    spec: SpecFile,
    output: Annotated[
        Optional[Path],  # noqa: UP045 - typer reads it at run time
        typer.Option(help="The run folder, or s3://bucket/prefix; runs/<study name> unless given."),
    ] = None,
    address: Address = None,
    set_: Set = None,
    allow_code: AllowCode = False,
    only: Annotated[
        Optional[list[str]],  # noqa: UP045 - typer reads it at run time
        typer.Option(metavar="EXPERIMENT", help="This experiment and no other; may be repeated."),
    ] = None,
    limit: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(
            min=1,
            metavar="N",
            help="At most N units of work (a craft on a shard of images), in the study's order; for fewer images, "
            "into a folder of their own: --set images.count=N --output RUN.",
        ),
    ] = None,
    wandb: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(metavar="MODE", help="Track it on Weights & Biases: online, offline or disabled."),
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print errors and the last line.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print events, one JSON object on each line.")] = False,
) -> None:
    """Run a study, or what is left of it.

    Exit status: 0 the study is complete, 1 it is not, 2 bad input, 129, 130 or 143 interrupted.

    Example: study launch specs/quickstart.yaml --set images.count=4

    Example: study launch specs/quickstart.yaml --only ensembles --limit 3

    Example: study launch specs/quickstart.yaml --json > events.jsonl
    """
    from actors.launch.launch import LaunchOptions
    from actors.launch.launch import launch as run
    from study.terminal import style
    from study.terminal.console import Console

    order = LaunchOptions(
        spec=spec,
        output=output,
        address=address,
        overrides=tuple(set_ or ()),
        allow_code=allow_code,
        style=style(quiet=quiet, json=json),
        only=tuple(only or ()),
        limit=limit,
        wandb=wandb,
    )
    raise typer.Exit(run(order, Console()))


@app.command()
def init(  # noqa: PLR0917 - options of a command
    spec: Annotated[Path, typer.Argument(help="The YAML file to write.")] = Path("study.yaml"),
    name: Annotated[Optional[str], typer.Option(help="The study's name.")] = None,  # noqa: UP045
    images: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="A folder of images, or `foolbox` for the sample."),
    ] = None,
    count: Annotated[int, typer.Option(min=1, help="How many images.")] = 8,
    model: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(help="resnet50, timm:resnet50.a1_in1k, …; may be repeated."),
    ] = None,
    attack: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(help="A preset that `study attacks` lists; may be repeated."),
    ] = None,
    targeted: Annotated[bool, typer.Option("--targeted", help="Targeted images too.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the file.")] = False,
) -> None:
    """Write a first spec, with comments; what is not said is asked for on a terminal.

    Example: study init mine.yaml --model resnet50 --model vgg16 --attack mi --images /data/val
    """
    from study.commands.init import InitOptions
    from study.commands.init import init as write

    ask = (lambda question, usual: str(typer.prompt(question, default=usual))) if sys.stdin.isatty() else None
    wish = InitOptions(name, images, count, tuple(model or ()), tuple(attack or ()), targeted, force)
    write(spec, wish, typer.echo, ask)


@app.command()
def validate(
    spec: SpecFile,
    images: Annotated[int, typer.Option(min=0, help="Decode so many images at most.")] = 1000,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    set_: Set = None,
    allow_code: AllowCode = False,
) -> None:
    """Check all of a spec that can be checked without running it. Exit status 0, or 2 where something is wrong.

    Example: study validate specs/quickstart.yaml
    """
    from study.commands.validate import ValidateOptions, print_validated
    from study.spec.loading import load
    from study.terminal.console import Console

    print_validated(load(spec, set_ or ()), Console(), ValidateOptions(images, allow_code, json))


@app.command()
def status(
    run: RunFolderPath,
    watch: Annotated[bool, typer.Option("--watch", help="Again and again, until the launch has ended.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Print how a run stands, also while another process works on it.

    Example: study status runs/quickstart --watch
    """
    from study.commands.status import StatusOptions, print_status
    from study.terminal.console import Console

    print_status(run, Console(), StatusOptions(watch, json))


@app.command()
def schema() -> None:
    """Print the JSON Schema of specs, for editors.

    Example: study schema > spec.schema.json
    """
    from study.spec.json_schema import text

    typer.echo(text(), nl=False)


@app.command()
def show(run: Annotated[Path, typer.Argument(help="A run folder.")]) -> None:
    """Print the transfer matrices of a run again, from its Parquet files.

    Example: study show runs/quickstart
    """
    from study.commands.show import show as print_run
    from study.terminal.console import Console

    print_run(run, Console())


@app.command()
def compare(
    run: RunPlace,
    paper: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="One paper, such as liu2017; those that the spec names unless given."),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    all_: Annotated[bool, typer.Option("--all", help="Also print numbers that cannot be compared, and why.")] = False,
    spec: AgainstSpec = None,
) -> None:
    """Print a run's numbers beside those of the papers' tables that its experiments reproduce.

    Example: study compare runs/liu2017 --paper liu2017
    """
    from study.commands.compare import CompareOptions
    from study.commands.compare import compare as print_comparison
    from study.terminal.console import Console

    print_comparison(str(run), Console(), CompareOptions(paper, all_, json, spec))


@app.command()
def findings(
    run: RunPlace,
    json: Annotated[bool, typer.Option("--json", help="Print JSON, with every cell.")] = False,
    spec: AgainstSpec = None,
) -> None:
    """Print which of a spec's findings the run bears out, with effect sizes, intervals, tests and reasons.

    Example: study findings runs/sgm2020 --spec specs/sgm2020.yaml
    """
    from study.commands.findings import FindingsOptions
    from study.commands.findings import findings as print_findings
    from study.terminal.console import Console

    print_findings(str(run), Console(), FindingsOptions(json, spec))


@app.command()
def table(  # noqa: PLR0917 - options of a command
    run: RunPlace,
    experiment: Annotated[str, typer.Option(help="Which experiment of the spec.")],
    format_: Annotated[str, typer.Option("--format", help="rich, markdown, latex or csv.")] = "rich",
    top: Annotated[int, typer.Option(help="Among how many of the most probable labels, 1 to 5.")] = 1,
    metric: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="accuracy, success or match; the one that its paper prints, else success, unless given."),
    ] = None,
    to: Annotated[Optional[Path], typer.Option(help="A file to write it to.")] = None,  # noqa: UP045
    spec: AgainstSpec = None,
) -> None:
    """Print one experiment in the papers' layout, or write it for a paper of your own.

    Example: study table runs/quickstart --experiment single-source --format latex --to table.tex
    """
    from study.report.tables.paper_table import TableOptions
    from study.report.tables.paper_table import table as print_table
    from study.terminal.console import Console

    print_table(str(run), TableOptions(experiment, top, metric, format_, to, spec), Console())


@app.command()
def geometry(
    run: RunPlace,
    figures: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="A folder for figures, as SVG and PNG."),
    ] = None,
) -> None:
    """Print what a run's probes found of the geometry of models, and draw it.

    Example: study geometry runs/small-geometry --figures figures
    """
    from study.commands.geometry import geometry as print_geometry
    from study.terminal.console import Console

    print_geometry(str(run), Console(), figures)


@app.command()
def report(
    run: RunPlace,
    to: Annotated[
        Optional[Path],  # noqa: UP045 - typer reads it at run time
        typer.Option(help="The file; RUN/report.html unless given, and <study>-report.html here for s3:// runs."),
    ] = None,
    figures: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="A folder for the figures, as SVG and PNG files too."),
    ] = None,
    spec: AgainstSpec = None,
) -> None:
    """Write a run as one HTML file: matrices, curves, comparison with the papers, gallery, provenance.

    Example: study report runs/quickstart --figures figures
    """
    from study.report.html.document import ReportOptions
    from study.report.html.document import report as write_report
    from study.terminal.console import Console

    write_report(str(run), ReportOptions(to, figures, spec), Console())


@app.command()
def verify(
    run: Annotated[Path, typer.Argument(help="A run folder, or s3://bucket/prefix.")],
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Read all of a run: is everything there, once, as it was written? Exit status 1 where it is not.

    Example: study verify runs/quickstart
    """
    from study.commands.verify import print_verified
    from study.terminal.console import Console

    raise typer.Exit(print_verified(run, Console(), json))


@app.command()
def images(  # noqa: PLR0917 - options of a command
    run: RunPlace,
    to: Annotated[Path, typer.Option(help="A new folder: PNGs, and labels.csv.")],
    craft: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="A pattern of crafts' ids, such as 'resnet50.mi.*'."),
    ] = None,
    attack: Annotated[Optional[str], typer.Option(help="One attack of the spec.")] = None,  # noqa: UP045
    sources: Annotated[Optional[str], typer.Option(help="Source models, joined by +.")] = None,  # noqa: UP045
    goal: Annotated[Optional[str], typer.Option(help="untargeted or targeted.")] = None,  # noqa: UP045
    seed: Annotated[Optional[int], typer.Option(help="One seed.")] = None,  # noqa: UP045
    steps: Annotated[Optional[int], typer.Option(help="Images after so many steps.")] = None,  # noqa: UP045
    budget: Annotated[Optional[float], typer.Option(help="Images of one budget of a sweep.")] = None,  # noqa: UP045
) -> None:
    """Write the adversarial images that a run has kept (`run: {keep_images: true}`) as PNGs with a list of labels.

    Example: study images runs/quickstart --attack mi --to adversarial
    """
    from study.commands.images import ImagesOptions, write_images
    from study.terminal.console import Console

    write_images(run, to, ImagesOptions(craft, attack, sources, goal, seed, steps, budget), Console())


@app.command()
def compact(run: Annotated[Path, typer.Argument(help="A run folder, or s3://bucket/prefix.")]) -> None:
    """Put the many parts of a run into few, sorted: the same rows, quicker to read.

    Example: study compact runs/quickstart
    """
    from study.commands.compact import print_compacted
    from study.terminal.console import Console

    print_compacted(run, Console())


@app.command()
def dashboard(run: RunPlace) -> None:
    """Lay out a W&B workspace for a study that was tracked online: matrix, rates, speed, failures.

    Example: study dashboard runs/liu2017
    """
    from study.terminal.console import Console
    from study.tracking.dashboard import dashboard as make

    make(str(run), Console())


@app.command()
def attacks(
    name: Annotated[Optional[str], typer.Argument(help="One preset, with all its parts.")] = None,  # noqa: UP045
) -> None:
    """List the attack presets: their parts, numbers and sources.

    Example: study attacks mi+di+sgm
    """
    from study.commands.attacks import print_attacks
    from study.terminal.console import Console

    print_attacks(Console(), name)


@app.command()
def models(
    spec: SpecFile,
    accuracy: Annotated[
        bool, typer.Option("--accuracy", help="Measure how often they are right, on all images.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    set_: Set = None,
    allow_code: AllowCode = False,
) -> None:
    """Print what a spec's models are: network, weights, input, parameters, memory, digest.

    Example: study models specs/quickstart.yaml --accuracy
    """
    from study.commands.models import ModelsOptions, print_models
    from study.spec.loading import load
    from study.terminal.console import Console

    print_models(load(spec, set_ or ()), Console(), ModelsOptions(accuracy, allow_code, json))


@app.command()
def fetch(
    spec: SpecFile,
    set_: Set = None,
) -> None:
    """Download the weights of a spec's models, once: resumed where it broke off, verified, and offline ever after.

    Example: study fetch specs/liu2017.yaml
    """
    from study.commands.fetch import fetch as run
    from study.spec.loading import load
    from study.terminal.console import Console

    run(load(spec, set_ or ()), Console())


@app.command()
def plan(  # noqa: PLR0917 - options of a command
    spec: SpecFile,
    on: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="Simulate it on machines: 64xH100, 8x4xA100 (8 nodes of 4), 16xcpu."),
    ] = None,
    profile: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="What `study profile` has written; runs/<study name>/profile.json unless given."),
    ] = None,
    images: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(min=1, help="How many images; those of the spec unless given."),
    ] = None,
    speed: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option(min=1e-6, help="How many times as fast those machines are as the ones that were measured."),
    ] = None,
    losses: Annotated[float, typer.Option(min=0, help="Share of the nodes that are lost in an hour.")] = 0.0,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    output: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="The run folder that is asked what is done; runs/<study name> unless given."),
    ] = None,
    set_: Set = None,
) -> None:
    """Print what a spec comes to, what of it is done, and how long it takes, here or on machines that are not there.

    Example: study plan specs/quickstart.yaml

    Example: study plan specs/quickstart.yaml --on 16xcpu
    """
    from actors.estimates.forecast import ForecastOptions, print_plan
    from study.spec.loading import load
    from study.terminal.console import Console

    asked = ForecastOptions(on, profile, images, speed, losses, json, output)
    print_plan(load(spec, set_ or ()), Console(), asked)


@app.command()
def profile(
    spec: SpecFile,
    output: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Where it is written; runs/<study name>/profile.json unless given."),
    ] = None,
    address: Address = None,
    set_: Set = None,
    allow_code: AllowCode = False,
) -> None:
    """Measure what gradients, predictions and loads of a spec's models cost, for `study plan --on`.

    Example: study profile specs/quickstart.yaml
    """
    from actors.backends.ray_backend import RayBackend
    from actors.estimates.profiling import profile as run
    from study.spec.loading import load
    from study.terminal.console import Console

    file = load(spec, set_ or ())
    run(file, output, Console(), lambda: RayBackend(address, file.spec.credentials), allow_code=allow_code)


@app.command()
def train(
    data: Annotated[Path, typer.Argument(help="A folder with MNIST's IDX files, or others of their kind.")],
    output: Annotated[Path, typer.Option(help="Where the weights go.")] = Path("weights"),
    depth: Annotated[
        Optional[list[int]],  # noqa: UP045
        typer.Option(help="Hidden layers; 0, 2, 4 and 8 unless given."),
    ] = None,
    epochs: Annotated[int, typer.Option(min=1)] = 5,
    seed: Annotated[int, typer.Option(min=0)] = 0,
) -> None:
    """Train the fully connected networks of the smoothed-gradient paper on MNIST, or on what has its format.

    Example: study train /usr/share/datasets/fashion-mnist --output weights/fashion
    """
    from study.commands.train import train as run
    from study.terminal.console import Console

    run(data, output, tuple(depth or (0, 2, 4, 8)), Console(), epochs=epochs, seed=seed)


@app.command()
def version() -> None:
    """Print the version."""
    from study import __version__

    typer.echo(__version__)


def main() -> None:
    """The console script: errors for people, and an exit status that tells the truth."""
    from study.errors import StudyError
    from study.process.interrupt import Interrupt, Interrupted

    with Interrupt() as interrupt:
        try:
            app()
        except StudyError as error:
            _complain(f"error: {error}")
            status = error.status
        except (Interrupted, KeyboardInterrupt):
            status = interrupt.status or 130
            _complain(f"stopped; what is finished is kept. Go on with: {shlex.join(['study', *sys.argv[1:]])}")
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    interrupt.leave(status)


def _complain(line: str) -> None:
    from study.safe_text import visible

    # A terminal that is gone takes no words.
    with contextlib.suppress(OSError):
        print(visible(line), file=sys.stderr)


def run() -> None:
    """`main` as a command: the process ends with it."""
    from study.process.leaving import leave

    leave(main)


if __name__ == "__main__":
    run()
