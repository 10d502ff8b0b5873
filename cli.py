"""The command line: the options and help of each `study` command. The work is done in study/commands/ and actors/."""

from __future__ import annotations

import contextlib
import os
import sys

if (
    __name__ == "__main__"
    and not sys.flags.safe_path
    and os.path.realpath(sys.path[0]) != os.path.dirname(os.path.realpath(__file__))
):
    # `python -m cli` searches the working folder first. If it is not this checkout, nothing may be imported from it.
    del sys.path[0]

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from study import __version__

if TYPE_CHECKING:
    from study.spec.spec_file import SpecFile
    from study.terminal.console import Console

RUN, LOOK, COMPARE = "Run a study", "Look at results", "Compare with papers"
MODELS, IMAGES, DEVELOP = "Models and attacks", "Images and files", "Develop"


class Commands(TyperGroup):
    """The group of all `study` commands. An unknown command raises StudyError, which suggests a command."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if not ctx.resilient_parsing and not args[0].startswith("-") and self.get_command(ctx, args[0]) is None:
            from study.commands.other_commands import unknown_command

            shown = [name for name, command in self.commands.items() if not command.hidden]
            raise unknown_command(args[0], shown)
        return super().resolve_command(ctx, args)


app = typer.Typer(cls=Commands, no_args_is_help=True, pretty_exceptions_enable=False)


def option(metavar: str, help: str, *names: str, **limits: Any) -> Any:
    """Return a typer option that takes one value. The help shows `metavar` in place of the value."""
    return typer.Option(*names, metavar=metavar, help=help, **limits)


def flag(help: str, *names: str) -> Any:
    """Return a typer option that takes no value, such as `--json`."""
    return typer.Option(*names, metavar="", help=help)


Spec = Annotated[
    Path, typer.Argument(metavar="SPEC", help="The YAML file of the study, or a name that `study specs` lists.")
]
Run = Annotated[str, typer.Argument(metavar="RUN", help="A run folder, or s3://bucket/prefix.")]
NewSpec = Annotated[
    Path | None, option("SPEC", "Use this spec, whose `published` or `findings` changed after the launch.", "--spec")
]
Set = Annotated[
    list[str] | None, option("KEY=VALUE", "Replace a value of the spec, e.g. images.count=5; repeatable.", "--set")
]
AllowCode = Annotated[bool, flag("Run the Python code that the spec names (`python:`).", "--allow-code")]
Address = Annotated[
    str | None, option("HOST:PORT", "A Ray cluster. Default: RAY_ADDRESS, else start Ray on this machine.")
]
Json = Annotated[bool, flag("Print JSON.", "--json")]
Figures = Annotated[Path | None, option("FOLDER", "Also write each figure into this folder, as SVG, PNG and PDF.")]
NoTitles = Annotated[bool, flag("Write the figures without titles, for papers with captions.", "--no-titles")]


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit


def _console() -> Console:
    from study.terminal.console import Console

    return Console()


def _load(spec: Path, values: list[str] | None) -> SpecFile:
    from study.spec.loading import load

    return load(spec, values or ())


@app.callback()
def study(
    _: Annotated[
        bool,
        typer.Option(
            "--version", metavar="", callback=_print_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    """Study how adversarial images transfer between image classifiers, on one machine or a Ray cluster."""


@app.command(rich_help_panel=RUN)
def init(
    *,
    spec: Annotated[Path, typer.Argument(metavar="SPEC", help="The YAML file to write.")] = Path("study.yaml"),
    name: Annotated[str | None, option("NAME", "The name of the study.")] = None,
    images: Annotated[str | None, option("FOLDER", "A folder of images, or `foolbox` for 20 sample images.")] = None,
    count: Annotated[int | None, option("N", "Number of images. Default: 8, or all if there are fewer.", min=1)] = None,
    model: Annotated[list[str] | None, option("MODEL", "E.g. resnet50 or timm:resnet50.a1_in1k; repeatable.")] = None,
    attack: Annotated[list[str] | None, option("PRESET", "A preset from `study attacks`; repeatable.")] = None,
    epsilon: Annotated[
        str | None, option("LENGTH", "The budget in pixel values 0..255, e.g. 8 or 8/255. Default: as in the presets.")
    ] = None,
    targeted: Annotated[bool, flag("Add targeted attacks.", "--targeted")] = False,
    force: Annotated[bool, flag("Overwrite an existing file.", "--force")] = False,
) -> None:
    """Write a first spec with comments.

    On a terminal, the command asks for the values that no option gives. It asks again after an invalid answer.

    Example: study init mine.yaml --model resnet50 --model vgg16 --attack mi --images /data/val
    """
    from study.commands.init import InitOptions, terminal_prompt, write_spec

    options = InitOptions(name, images, count, tuple(model or ()), tuple(attack or ()), targeted, force, epsilon)
    write_spec(spec, options, typer.echo, terminal_prompt())


@app.command(rich_help_panel=RUN)
def specs(
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="Print this spec.")] = None,
) -> None:
    """List the specs that come with the project, or print one.

    Every command that reads a SPEC accepts these names, in any folder. If a file has the same name, the file is used.

    Example: study specs

    Example: study specs quickstart > mine.yaml
    """
    from study.commands.specs import print_specs

    print_specs(_console(), name)


@app.command(rich_help_panel=RUN)
def validate(
    *,
    spec: Spec,
    images: Annotated[int, option("N", "Decode at most N images.", min=0)] = 1000,
    json: Json = False,
    output: Annotated[
        Path | None, option("RUN", "The run folder that a launch would use. Default: runs/<study>.")
    ] = None,
    set_: Set = None,
    allow_code: AllowCode = False,
) -> None:
    """Check a spec, its models, its images and its run folder, without running the study.

    Exit status: 0 if the spec is valid, 2 if the spec is invalid or the run folder belongs to another spec.

    Example: study validate quickstart
    """
    from study.commands.validate import ValidateOptions, print_validation

    print_validation(_load(spec, set_), _console(), ValidateOptions(images, allow_code, json, output))


@app.command(rich_help_panel=RUN)
def plan(
    *,
    spec: Spec,
    on: Annotated[
        str | None, option("MACHINES", "Simulate machines, e.g. 64xH100, 8x4xA100 (8 nodes of 4 GPUs) or 16xcpu.")
    ] = None,
    profile: Annotated[
        Path | None, option("FILE", "The output of `study profile`. Default: runs/<study>/profile.json.")
    ] = None,
    images: Annotated[int | None, option("N", "Number of images. Default: as in the spec.", min=1)] = None,
    speed: Annotated[
        float | None, option("FACTOR", "Speed of the machines relative to the profiled machine.", min=1e-6)
    ] = None,
    losses: Annotated[float, option("SHARE", "Share of the nodes that fail per hour, e.g. 0.01.", min=0)] = 0.0,
    json: Json = False,
    output: Annotated[
        Path | None, option("RUN", "The run folder that a launch would use. Default: runs/<study>.")
    ] = None,
    set_: Set = None,
) -> None:
    """Count the work in a spec and estimate its duration.

    If the run folder exists, the command also prints which work is new, which is done, and what a launch would refuse.
    The duration is estimated for this machine, or with --on for simulated machines. The estimate needs the output of
    `study profile`.

    Example: study plan quickstart

    Example: study plan quickstart --on 16xcpu
    """
    from actors.estimates.forecast import ForecastOptions, print_plan

    options = ForecastOptions(on, profile, images, speed, losses, json, output)
    print_plan(_load(spec, set_), _console(), options)


@app.command(rich_help_panel=RUN)
def launch(
    *,
    spec: Spec,
    output: Annotated[
        Path | None, option("RUN", "The run folder, or s3://bucket/prefix. Default: runs/<study>.")
    ] = None,
    address: Address = None,
    set_: Set = None,
    allow_code: AllowCode = False,
    only: Annotated[list[str] | None, option("EXPERIMENT", "Run this experiment only; repeatable.")] = None,
    limit: Annotated[
        int | None,
        option(
            "N",
            "Run at most N units, in the order of the study. A unit is one attack on a few images. For fewer images, "
            "use --set images.count=N with another --output.",
            min=1,
        ),
    ] = None,
    wandb: Annotated[str | None, option("MODE", "Track on Weights & Biases: online, offline or disabled.")] = None,
    inline: Annotated[
        bool, flag("Run everything in this process, without Ray: for debugging. The rows are the same.", "--inline")
    ] = False,
    other_devices: Annotated[
        bool,
        flag(
            "Continue a run on another kind of GPU, or change between CPU and GPU. New rows are rounded differently.",
            "--other-devices",
        ),
    ] = False,
    quiet: Annotated[bool, flag("Print only errors, failures, repairs and the last line.", "--quiet", "-q")] = False,
    json: Annotated[bool, flag("Print events, one JSON object per line.", "--json")] = False,
) -> None:
    """Run a study, or its unfinished part.

    Exit status: 0 complete, 1 incomplete, 2 bad input; after a signal: 129, 130 or 143.

    Example: study launch quickstart --set images.count=4

    Example: study launch quickstart --only ensembles --limit 3

    Example: study launch quickstart --json > events.jsonl
    """
    from actors.launch.inline_errors import as_one_message
    from actors.launch.launch import launch as run_study
    from actors.launch.options import LaunchOptions
    from study.terminal import style

    options = LaunchOptions(
        spec=spec,
        output=output,
        address=address,
        overrides=tuple(set_ or ()),
        allow_code=allow_code,
        style=style(quiet=quiet, json=json, shared=inline and not json),
        only=tuple(only or ()),
        limit=limit,
        wandb=wandb,
        inline=inline,
        other_devices=other_devices,
    )
    with as_one_message() if inline else contextlib.nullcontext():
        status = run_study(options, _console())
    raise typer.Exit(status)


@app.command(rich_help_panel=RUN)
def status(
    *,
    run: Run,
    watch: Annotated[bool, flag("Print the progress again and again until the launch ends.", "--watch")] = False,
    json: Json = False,
) -> None:
    """Print the progress of a run.

    The command works from any terminal or machine, also while a launch runs.

    Example: study status runs/quickstart --watch
    """
    from study.commands.status import StatusOptions, print_status

    print_status(run, _console(), StatusOptions(watch, json))


@app.command(rich_help_panel=LOOK)
def show(
    *,
    run: Run,
    visibility: Annotated[
        bool, typer.Option("--visibility", help="In place of matrices, print success, cost and visibility of attacks.")
    ] = False,
    clean_correct: Annotated[
        bool, flag("Also print rates over the images that a target classifies correctly when clean.", "--clean-correct")
    ] = False,
) -> None:
    """Print the transfer matrices of a run.

    Example: study show runs/quickstart
    """
    from study.commands.show import print_run

    print_run(run, _console(), visible=visibility, clean_correct=clean_correct)


@app.command(rich_help_panel=LOOK)
def table(
    *,
    run: Run,
    experiment: Annotated[
        list[str] | None, option("EXPERIMENT", "An experiment of the spec; repeatable. Default: all.")
    ] = None,
    format_: Annotated[
        str,
        option("FORMAT", "rich (the terminal), markdown, latex (booktabs), siunitx, typst or csv.", "--format"),
    ] = "rich",
    top: Annotated[int, option("K", "Look for the label among the K most probable labels, 1 to 5.")] = 1,
    metric: Annotated[
        str | None, option("METRIC", "accuracy, success or match. Default: as in the paper, else success.")
    ] = None,
    decimals: Annotated[
        int | None, option("N", "Number of decimals of rates. Default: chosen by the number of images.")
    ] = None,
    mean: Annotated[bool, flag("Add the mean of the black-box rates of each row.", "--mean")] = False,
    intervals: Annotated[bool, flag("Print 95 % intervals in place of standard deviations.", "--intervals")] = False,
    across: Annotated[bool, flag("Print attacks as columns, and sources and targets as rows.", "--across")] = False,
    clean_correct: Annotated[
        bool, flag("Also print rates over the images that a target classifies correctly when clean.", "--clean-correct")
    ] = False,
    name: Annotated[
        list[str] | None,
        option("OURS=PRINTED", "Print another name, e.g. mi=MI-FGSM. LaTeX math ($…$) stays unchanged. Repeatable."),
    ] = None,
    to: Annotated[Path | None, option("FILE", "Write the tables to this file.")] = None,
    spec: NewSpec = None,
) -> None:
    """Print experiments in the layout of the papers.

    Example: study table runs/quickstart --experiment single-source --format latex --to table.tex

    Example: study table runs/quickstart --mean --decimals 1 --name mi=MI-FGSM --name lite0=Lite0
    """
    from study.commands.table import TableOptions, names_to_print, print_table
    from study.report.tables.layout import TableStyle

    style = TableStyle(decimals, mean, intervals, names_to_print(name or ()), across, clean_correct=clean_correct)
    print_table(run, _console(), TableOptions(tuple(experiment or ()), top, metric, format_, to, spec, style))


@app.command(rich_help_panel=LOOK)
def methods(*, run: Run, spec: NewSpec = None) -> None:
    """Print a description of the methods of a run, for a paper.

    The text names the images, models, attacks with budgets and steps, numerics, versions and hardware.

    Example: study methods runs/quickstart
    """
    from study.commands.methods import print_methods

    print_methods(run, _console(), spec)


@app.command(rich_help_panel=LOOK)
def report(
    *,
    run: Run,
    to: Annotated[
        Path | None, option("FILE", "The HTML file. Default: RUN/report.html, or ./<study>-report.html for s3:// runs.")
    ] = None,
    figures: Figures = None,
    no_titles: NoTitles = False,
    spec: NewSpec = None,
) -> None:
    """Write a run as one HTML file.

    The file holds matrices, curves, the comparison with papers, sample images and provenance. A browser shows the file
    without a network.

    Example: study report runs/quickstart --figures figures
    """
    from study.report.html.document import ReportOptions
    from study.report.html.document import report as write_report

    write_report(run, ReportOptions(to, figures, spec, not no_titles), _console())


@app.command(rich_help_panel=LOOK)
def geometry(*, run: Run, figures: Figures = None) -> None:
    """Print the results of the geometry probes of a run.

    Probes (`geometry:` in a spec) measure gradient cosines, decision regions, linearity and intervals.

    Example: study geometry runs/small-geometry --figures figures
    """
    from study.commands.geometry import print_geometry

    print_geometry(run, _console(), figures)


@app.command(rich_help_panel=LOOK)
def dashboard(run: Run) -> None:
    """Create a Weights & Biases workspace for a run that was tracked online.

    Example: study dashboard runs/liu2017
    """
    from study.tracking.dashboard import dashboard as create_workspace

    create_workspace(run, _console())


@app.command(rich_help_panel=COMPARE)
def board(
    *,
    runs: Annotated[list[str], typer.Argument(metavar="RUN…", help="Run folders, or s3://bucket/prefix.")],
    to: Annotated[
        Path | None, option("PATH", "A .html, .csv or .tex file, or a folder for board.html, board.csv and board.tex.")
    ] = None,
    experiment: Annotated[list[str] | None, option("NAME", "Only this experiment; repeatable.")] = None,
) -> None:
    """Compare runs of the same protocol side by side: success with intervals, cost, visibility.

    Attacks are ranked by their mean success against black-box targets. The command also lists how the protocols of the
    runs differ.

    Example: study board runs/ours runs/theirs --to board
    """
    from study.commands.board import print_board

    print_board(runs, _console(), to=to, experiments=experiment or ())


@app.command(rich_help_panel=COMPARE)
def card(
    *,
    run: Run,
    to: Annotated[Path | None, option("FILE", "An HTML or Markdown file. Default: print Markdown.")] = None,
) -> None:
    """Print one page about the protocol of a run: images, weights, attacks, numerics, cost, intervals.

    Example: study card runs/ours --to card.html
    """
    from study.commands.board import print_card

    print_card(run, _console(), to)


@app.command(rich_help_panel=COMPARE)
def compare(
    *,
    run: Run,
    paper: Annotated[
        str | None, option("PAPER", "E.g. liu2017. Default: all papers whose tables the spec names.")
    ] = None,
    json: Json = False,
    all_: Annotated[bool, flag("Also print numbers that are not comparable, and why.", "--all")] = False,
    spec: NewSpec = None,
) -> None:
    """Print a run's numbers next to the published numbers of papers.

    Example: study compare runs/liu2017 --paper liu2017
    """
    from study.commands.compare import CompareOptions, print_comparison

    print_comparison(run, _console(), CompareOptions(paper, all_, json, spec))


@app.command(rich_help_panel=COMPARE)
def findings(*, run: Run, json: Json = False, spec: NewSpec = None) -> None:
    """Test the claims (findings) of a spec on the rows of a run.

    For each claim, the command prints a verdict, an effect size with its interval, a test and a reason.

    Example: study findings runs/sgm2020 --spec sgm2020
    """
    from study.commands.findings import FindingsOptions, print_findings

    print_findings(run, _console(), FindingsOptions(json, spec))


@app.command(rich_help_panel=MODELS)
def models(
    *,
    spec: Spec,
    accuracy: Annotated[bool, flag("Measure clean accuracy on all images.", "--accuracy")] = False,
    layers: Annotated[str | None, option("MODEL", "Print only the names of the layers of this model.")] = None,
    json: Json = False,
    set_: Set = None,
    allow_code: AllowCode = False,
) -> None:
    """Print the models of a spec: network, weights, input, memory, digest.

    Example: study models quickstart --accuracy
    """
    if layers is not None:
        from study.commands.model_layers import print_layers

        print_layers(_load(spec, set_), _console(), layers, allow_code=allow_code, as_json=json)
        return
    from study.commands.models import ModelsOptions, print_models

    print_models(_load(spec, set_), _console(), ModelsOptions(accuracy, allow_code, json))


@app.command(rich_help_panel=MODELS)
def fetch(*, spec: Spec, set_: Set = None) -> None:
    """Download the weights of a spec's models.

    Each file is downloaded once and verified. A second call continues an interrupted download. Later commands need no
    network.

    Example: study fetch liu2017
    """
    from study.commands.fetch import fetch_weights

    fetch_weights(_load(spec, set_), _console())


@app.command(rich_help_panel=MODELS)
def profile(
    *,
    spec: Spec,
    output: Annotated[Path | None, option("FILE", "The JSON file. Default: runs/<study>/profile.json.")] = None,
    address: Address = None,
    set_: Set = None,
    allow_code: AllowCode = False,
) -> None:
    """Measure the speed of a spec's models, for `study plan`.

    The command times gradients, predictions and the loading of each model, while all workers are busy.

    Example: study profile quickstart
    """
    from actors.backends.ray_backend import RayBackend
    from actors.estimates.profiling import profile as measure

    file = _load(spec, set_)
    measure(file, output, _console(), lambda: RayBackend(address, file.spec.credentials), allow_code=allow_code)


@app.command(rich_help_panel=MODELS)
def attacks(
    name: Annotated[
        str | None, typer.Argument(metavar="PRESET", help="Print all parts of this preset. `check` tests a component.")
    ] = None,
    component: Annotated[
        str | None, typer.Argument(metavar="FILE:CLASS", help="After `check`: a component, by its file or its name.")
    ] = None,
    set_: Annotated[
        list[str] | None, option("KEY=VALUE", "After `check`: a parameter of the component; repeatable.", "--set")
    ] = None,
    network: Annotated[
        list[str] | None, option("REFERENCE", "After `check`: a network to try the component on; repeatable.")
    ] = None,
) -> None:
    """List the attack presets with their parts and sources, or test a component of your own.

    Example: study attacks mi+di+sgm

    Example: study attacks check mine.py:Shuffle
    """
    if name == "check" and component is not None:
        from study.commands.check_component import print_check

        raise typer.Exit(print_check(_console(), component, set_, network))
    from study.commands.attacks import print_attacks

    print_attacks(_console(), name, component)


@app.command(rich_help_panel=IMAGES)
def images(
    *,
    run: Run,
    to: Annotated[Path, option("FOLDER", "A new folder for the PNG files and labels.csv.")],
    craft: Annotated[str | None, option("PATTERN", "Only attack runs whose id matches, e.g. 'resnet50.mi.*'.")] = None,
    attack: Annotated[str | None, option("ATTACK", "Only this attack of the spec.")] = None,
    sources: Annotated[str | None, option("MODELS", "Only these source models, e.g. resnet50+vgg16.")] = None,
    goal: Annotated[str | None, option("GOAL", "Only this goal: untargeted or targeted.")] = None,
    seed: Annotated[int | None, option("N", "Only this seed of the attack.")] = None,
    steps: Annotated[int | None, option("N", "Only images after N steps.")] = None,
    budget: Annotated[float | None, option("VALUE", "Only this budget of an attack with several budgets.")] = None,
) -> None:
    """Export the adversarial images that a run kept, as PNG files.

    A run keeps images if its spec has `run: {keep_images: true}`. Without other options, all kept images are exported.

    Example: study images runs/quickstart --attack mi --to adversarial
    """
    from study.commands.images import ImagesOptions, export_images

    export_images(run, to, _console(), ImagesOptions(craft, attack, sources, goal, seed, steps, budget))


@app.command(rich_help_panel=IMAGES)
def judge(
    *,
    run: Run,
    spec: Annotated[Path, option("SPEC", "A spec with the new `judge` and `names` of the chat services.")],
    output: Annotated[Path, option("FOLDER", "A new run folder. The old run folder does not change.")],
) -> None:
    """Judge the stored answers of chat services again, without asking the services.

    The new folder holds the same rows with the new verdicts. A judge that is itself a chat model receives requests.

    Example: study judge runs/chat --spec stricter.yaml --output runs/chat-stricter
    """
    from study.commands.judge import judge_run

    judge_run(str(run), _load(spec, None), output, _console())


@app.command(rich_help_panel=IMAGES)
def verify(*, run: Run, json: Json = False) -> None:
    """Check that a run is complete and undamaged.

    Exit status: 0 complete and undamaged, 1 incomplete or damaged, 2 if RUN is not a run folder.

    Example: study verify runs/quickstart
    """
    from study.commands.verify import print_verification

    raise typer.Exit(print_verification(run, _console(), as_json=json))


@app.command(rich_help_panel=IMAGES)
def compact(run: Run) -> None:
    """Merge the Parquet files of a run into fewer files, for faster reading.

    The rows stay the same.

    Example: study compact runs/quickstart
    """
    from study.commands.compact import compact_run

    compact_run(run, _console())


@app.command(rich_help_panel=DEVELOP)
def schema() -> None:
    """Print the JSON Schema of specs, for editors.

    Example: study schema > spec.schema.json
    """
    from study.spec.json_schema import text

    typer.echo(text(), nl=False)


@app.command(rich_help_panel=DEVELOP)
def train(
    *,
    data: Annotated[Path, typer.Argument(metavar="FOLDER", help="A folder with IDX files, such as MNIST's.")],
    output: Annotated[Path, option("FOLDER", "The folder for the weights.")] = Path("weights"),
    depth: Annotated[
        list[int] | None, option("N", "Number of hidden layers; repeatable. Default: 0, 2, 4 and 8.")
    ] = None,
    network: Annotated[
        list[str] | None, option("NAME", "In place of --depth: mnist_cnn, mnist_vit or mnist_fnn4; repeatable.")
    ] = None,
    adversarial: Annotated[
        float | None,
        option("EPSILON", "Train on images attacked by PGD within this many pixel values.", min=0.1, max=255),
    ] = None,
    collect: Annotated[
        Path | None, option("FILE", "In place of training: collect weights around those in this file.")
    ] = None,
    count: Annotated[int, option("N", "With --collect: number of weights.", min=2)] = 40,
    epochs: Annotated[int | None, option("N", "Number of epochs. Default: 5; with --collect 10.", min=1)] = None,
    seed: Annotated[int, option("N", "The random seed.", min=0)] = 0,
    threads: Annotated[int, option("N", "Number of CPU threads, which changes the rounding.", min=1)] = 1,
) -> None:
    """Train small networks on data in MNIST's format.

    By default, the networks are the MNIST networks of the smoothed-gradient paper. With --network, the command trains
    the named networks, such as a small CNN or ViT. With --adversarial, the command trains on adversarial images. With
    --collect, it trains a trained network further at a high rate and keeps weights along the way, for the attack lgv.

    Example: study train /usr/share/datasets/fashion-mnist --network mnist_cnn --adversarial 16
    """
    from study.commands.train import TrainOptions, train_networks

    networks = network or [f"mnist_fnn{one}" for one in depth or ()]
    train_networks(
        data, _console(), TrainOptions(output, tuple(networks), epochs, seed, adversarial, threads, collect, count)
    )


@app.command(hidden=True)
def version() -> None:
    """Print the version."""
    typer.echo(__version__)


def main() -> None:
    """Run the command that `sys.argv` names, and end the process with its exit status."""
    from functools import partial

    from study.process.command import run_command

    run_command(partial(app, prog_name="study"))


if __name__ == "__main__":
    main()
