"""Boards and cards: their numbers are those of the analysis, what differs is told, and the formats are whole."""

from __future__ import annotations

import csv
import dataclasses
import io
import re
import shutil
from html.parser import HTMLParser

import numpy as np
import polars as pl
import pytest
import yaml
from rich.console import Console

from study.analysis.bootstrap import interval_of_mean
from study.analysis.experiments import averaged, cells, of_experiment
from study.analysis.intervals import interval_of_rate
from study.analysis.rates import hits
from study.commands.board import print_board, print_card
from study.errors import StudyError
from study.report.board.card import card_tables
from study.report.board.formats import COLUMNS
from study.report.board.lines import Entry, board_tables
from study.report.board.protocol import differences, facts
from study.results.run_reader import open_run
from study.spec.loading import load
from tests.conftest import TINY


def board(runs, to=None, experiments=()):
    printed = io.StringIO()
    print_board([str(run) for run in runs], Console(file=printed, width=160), to=to, experiments=experiments)
    return printed.getvalue()


@pytest.fixture(scope="module")
def two(many_run, tmp_path_factory):
    """The study of many, and a copy of it under another name."""
    other = tmp_path_factory.mktemp("two") / "other"
    shutil.copytree(many_run, other)
    return many_run, other


def test_rates_means_and_intervals(many_run):
    data = open_run(str(many_run))
    tables = board_tables([Entry("run", str(many_run), data)])
    assert [(one.experiment, one.goal) for one in tables] == [
        ("one", "untargeted"), ("many", "untargeted"), ("many", "targeted"), ("smallest", "targeted"),
    ]  # fmt: skip
    every = averaged(of_experiment(cells(data.rows, data.spec), data.spec, "many"))
    many = tables[1]
    assert len(many.lines) == 3 * 3, "one for each source set: pgd at its end, and fgsm at each of two budgets"
    assert [line.mean for line in many.lines] == sorted((line.mean for line in many.lines), reverse=True)
    for line in many.lines:
        attack, _, rest = line.attack.partition(", ")
        level = float(rest.rpartition(" ")[2]) if attack == "fgsm" else 16.0
        steps = 2 if attack == "pgd" else 1
        here = (pl.col("level") == level) & (pl.col("steps") == steps)
        mine = every.filter(here, goal="untargeted", attack=attack, sources=line.sources)
        assert {name: cell["success"] for name, cell in line.rates.items()} == dict(
            mine.select("target", "success").iter_rows()
        )
        black = mine.filter(relation="black")
        assert line.mean == pytest.approx(black["success"].mean())
        rows = data.rows.filter(
            pl.col("attack") == attack, pl.col("goal") == "untargeted", pl.col("steps") == steps,
            pl.col("budget") == level, pl.col("sources").list.join("+") == line.sources, pl.col("relation") == "black",
        )  # fmt: skip
        by_image = rows.with_columns(hit=hits(rows)).group_by("image").agg(pl.col("hit").mean()).collect()
        assert line.mean == pytest.approx(by_image["hit"].mean())
        values = by_image.sort("image")["hit"].to_numpy()
        ends = interval_of_rate(values.sum(), len(values)) if values.std() == 0 else interval_of_mean(values)
        assert (line.low, line.high) == pytest.approx(ends)
        assert line.gradients == data.spec.attacks[attack].gradients(steps, line.sources.count("+") + 1)
    front = [line for line in many.lines if line.front]
    assert front
    assert not any(
        other.mean >= one.mean and other.gradients <= one.gradients and other.visible["rmsd"] < one.visible["rmsd"]
        for one in front
        for other in many.lines
        if many.measure == "rmsd"
    )


def test_all_formats(two, tmp_path):
    printed = board(two, tmp_path / "board")
    assert "many, untargeted" in printed
    assert "differ" not in printed, "a copy has the same protocol"
    with (tmp_path / "board" / "board.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert tuple(lines[0]) == COLUMNS
    one = [line for line in lines if line["run"] == "run"]
    other = [line | {"run": "run", "place": ""} for line in lines if line["run"] == "other"]
    assert sorted((line | {"place": ""}).items() for line in one) == sorted(line.items() for line in other)
    rates = np.array([float(line["success"]) for line in lines])
    assert ((rates >= 0) & (rates <= 1)).all()
    tex = (tmp_path / "board" / "board.tex").read_text()
    for body in re.findall(r"\\begin{tabular}{(\w+)}\n\\toprule\n(.*?)\\bottomrule", tex, re.S):
        widths = {row.count(" & ") + 1 for row in body[1].split("\n") if row.endswith(r"\\")}
        assert widths == {len(body[0])}
    page = (tmp_path / "board" / "board.html").read_text()
    _Balanced().feed(page)
    assert page.count("<table") == 4 + 1
    assert "These runs do not share a protocol" not in page
    assert "src=" not in page.replace('src="data:', ""), "no file is needed"


class _Balanced(HTMLParser):
    """Fails where a tag is closed that is not open."""

    alone = frozenset({"meta", "link", "br", "img", "input", "hr", "path", "use", "rect"})

    def __init__(self):
        super().__init__()
        self.open = []

    def handle_starttag(self, tag, attrs):
        if tag not in self.alone:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in self.alone:
            assert self.open.pop() == tag


def test_what_differs_is_told(many_run, tiny_run, tmp_path):
    known = {name: facts(Entry(name, str(run), open_run(str(run)))) for name, run in
             (("many", many_run), ("tiny", tiny_run))}  # fmt: skip
    told = " | ".join(differences(known))
    assert "Images differ: many has 4 of imagenet" in told
    assert "Clean images differ" in told
    assert "Seeds differ: many has 0, 1, 2, 7; tiny has 7" in told
    assert "The target a-jpeg is only in many" in told
    changed = {"one": {**known["many"]}, "two": {**known["many"], "targets": "a 0123, b " + "0" * 12}}
    assert any(line.startswith("The target a is not the same network in all runs") for line in differences(changed))
    printed = board([many_run, tiny_run], tmp_path / "board.html")
    assert "warning: Images differ" in printed
    assert "These runs do not share a protocol" in (tmp_path / "board.html").read_text()


def test_messages(many_run, tmp_path):
    with pytest.raises(StudyError, match="no run has an experiment named 'none'"):
        board([many_run], experiments=["none"])
    with pytest.raises(StudyError, match="a board cannot have the format"):
        board([many_run], tmp_path / "board.pdf")
    with pytest.raises(StudyError):
        board([tmp_path / "nothing"])
    assert "one, untargeted" not in board([many_run], experiments=["many"])


def test_a_card(many_run, tmp_path):
    printed = io.StringIO()
    print_card(str(many_run), Console(file=printed, width=500), None)
    text = printed.getvalue()
    data = open_run(str(many_run))
    for name, recorded in data.models.items():
        assert f"| {name} |" in text
        assert recorded["digest"][:16] in text
    for part in ("epsilon 4 to 16", "seeds | 0, 1, 2", "a-jpeg", "jpeg 75", "batch 4", "hardest target", "[", "torch "):
        assert part in text, part
    assert "None" not in text
    print_card(str(many_run), Console(file=io.StringIO()), tmp_path / "card.html")
    _Balanced().feed((tmp_path / "card.html").read_text())
    print_card(str(many_run), Console(file=io.StringIO()), tmp_path / "card.md")
    assert (tmp_path / "card.md").read_text().strip() in text.strip()


def test_a_card_tells_stages_that_are_components(tiny_run, tmp_path, spec_file):
    spec = yaml.safe_load(TINY)
    changed = {
        "b-smoothed": {"model": "b", "transform": {"smoothing": 63.75}},
        "b-both": {"model": "b", "transform": [{"jpeg": 75}, {"smoothing": {"draws": 9}}]},
    }
    # Of a spec alone: these models have no rows in the run.
    data = dataclasses.replace(open_run(str(tiny_run)), spec=load(spec_file({"models": spec["models"] | changed})).spec)
    models = card_tables(Entry("run", str(tiny_run), data))[1]
    defences = {row[0].text: row[3].text for row in models.rows}
    assert defences == {"a": "–", "b": "–", "c": "–", "b-smoothed": "smoothing", "b-both": "jpeg 75, smoothing draws 9"}
