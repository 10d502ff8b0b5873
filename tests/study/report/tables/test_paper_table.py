"""`study table` and `study compare`: their output, parsed and compared with a loop over the rows."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
import statistics
from dataclasses import replace

import polars as pl
import pytest
import yaml

from study.analysis.intervals import interval_of_rate
from study.report.tables import paper_table, table_formats
from study.report.tables.grid import grid
from study.report.tables.layout import Layout, TableRate, TableRow, TableStyle
from study.report.tables.paper_table import TableOptions
from study.report.wording import fixed
from study.results.run_reader import open_run
from tests.conftest import TINY, rows


def rate(frame: pl.DataFrame, top: int, metric: str) -> float:
    hit = []
    for one in frame.iter_rows(named=True):
        best = one["top5"][:top]
        reached = one["target_label"] in best if one["goal"] == "targeted" else one["label"] not in best
        hit.append(reached != (metric == "accuracy"))
    return 100 * sum(hit) / len(hit)


def numbers_of(layout: Layout):
    for line in layout.rows:
        for target, one in zip(layout.targets, line.rates, strict=True):
            yield line, target, one


@pytest.fixture(scope="module")
def layouts(tiny_run) -> list[Layout]:
    finished = open_run(str(tiny_run))
    return paper_table.layouts(finished.spec, finished.rows, TableOptions(("single",)))


@pytest.mark.parametrize(("top", "metric"), [(1, "success"), (5, "success"), (5, "accuracy"), (1, "match")])
def test_layouts_agree_with_the_rows(tiny_run, top, metric):
    finished = open_run(str(tiny_run))
    goal = "targeted" if metric == "match" else "untargeted"
    experiment = finished.spec.experiments["single"].model_copy(update={"goal": (goal,)})
    spec = finished.spec.model_copy(update={"experiments": {"single": experiment}})
    (layout,) = paper_table.layouts(spec, finished.rows, TableOptions(("single",), top, metric))
    everything = rows(tiny_run)
    for line, target, one in numbers_of(layout):
        mine = everything.filter(pl.col("sources") == [line.sources], attack=line.attack, goal=goal, target=target)
        assert (one.images, one.seeds, one.std) == (6, 1, None)
        assert one.value == pytest.approx(rate(mine, top, metric))
        assert (one.relation == "white") == (target == line.sources)
        assert one.rmsd == pytest.approx(mine["rmsd"].mean())
    assert len(layout.rows) == 12


def unescaped(text: str) -> str:
    return re.sub(r"\\([\\`*_\[\]<>|])", r"\1", text)


def test_markdown(layouts):
    text = table_formats.markdown(layouts)
    parts = re.split(r"^\*\*.*\*\*$", text, flags=re.M)[1:]
    assert len(parts) == 2
    for layout, part in zip(layouts, parts, strict=True):
        lines = [re.split(r"(?<!\\)\|", line)[1:-1] for line in part.splitlines() if line.startswith("|")]
        heading, rule, *body = [[cell.strip() for cell in line] for line in lines]
        assert [unescaped(cell) for cell in heading] == ["attack", "sources", "RMSD", *layout.targets]
        assert all(re.fullmatch(r"-{3}:?", cell) for cell in rule)
        attack = ""
        for line, (section, sources, moved, *cells) in zip(layout.rows, body, strict=True):
            attack = unescaped(section) or attack
            assert (attack, sources.replace(" + ", "+"), moved) == (line.variant, line.sources, line.rmsd_text)
            for one, cell in zip(line.rates, cells, strict=True):
                assert cell.endswith(r"\*") == (one.relation == "white")
                assert cell.startswith("**") == one.best
                assert cell.strip("*\\") == one.text()


def latex_rows(text: str) -> list[list[str]]:
    (body,) = re.findall(r"\\begin\{tabular\}\{l(r+)\}\n(.*?)\\end\{tabular\}", text, re.S)
    return [[cell.strip() for cell in line.removesuffix(r"\\").split(" & ")] for line in body[1].splitlines()]


def test_latex(layouts):
    text = table_formats.latex(layouts)
    for layout, part in zip(layouts, text.split(r"\begin{table}")[1:], strict=True):
        lines = latex_rows(part)
        assert lines[0] == [r"\toprule"]
        assert lines[-1] == [r"\bottomrule"]
        assert lines[1][1:] == ["RMSD", *layout.targets]
        body = [line for line in lines[2:-1] if line != [r"\midrule"]]
        sections = [re.findall(r"\\textit\{(.*)\}\}", line[0])[0] for line in body if len(line) == 1]
        assert sections == list(dict.fromkeys(line.variant for line in layout.rows))
        for line, (sources, moved, *cells) in zip(layout.rows, [one for one in body if len(one) > 1], strict=True):
            assert (sources.replace(" + ", "+"), moved) == (line.sources, line.rmsd_text)
            for one, cell in zip(line.rates, cells, strict=True):
                assert cell.endswith("$^{*}$") == (one.relation == "white")
                assert cell.startswith(r"\textbf{") == one.best
                assert cell.removesuffix("$^{*}$").removeprefix(r"\textbf{").removesuffix("}") == one.text()
        assert part.count("{") == part.count("}")
        assert part.count(r"\begin{") + 1 == part.count(r"\end{")


def test_latex_escapes_its_commands():
    assert table_formats.escaped(r"50%_a&b#$x^~\{}") == (
        r"50\%\_a\&b\#\$x\textasciicircum{}\textasciitilde{}\textbackslash{}\{\}"
    )
    rates = (TableRate(1.0, 0.5, 1000, 2, "black", 1.0), TableRate(1.0, None, 1000, 1, "black", 2.0), None)
    line = TableRow("a_b", "a_b", "x_1+y", rates)
    layout = Layout("e_1", "untargeted", "success", 1, ("t_1", "t_2", "t_3"), (line,))
    text = table_formats.latex([layout])
    for part in (r"\textit{a\_b}", r"x\_1 + y", r"t\_1", r"1.0 $\pm$ 0.5", "1.00 to 2.00", "--", r"e\_1, untargeted"):
        assert part in text
    assert not re.findall(r"(?<!\\)[_%#&](?=\w)", text.replace(" & ", " ").replace(r"\label{tab:e_1", ""))
    assert "over 2 seeds" in text


def test_csv(layouts):
    found = list(csv.DictReader(io.StringIO(table_formats.csv(layouts))))
    expected = [(layout, *one) for layout in layouts for one in numbers_of(layout)]
    for row, (layout, line, target, one) in zip(found, expected, strict=True):
        assert (row["goal"], row["sources"], row["target"], row["attack"]) == (
            layout.goal, line.sources, target, line.attack)  # fmt: skip
        assert (float(row["value"]), int(row["images"]), row["std"]) == (one.value, one.images, "")
        assert (row["relation"], row["best"] == "true", float(row["rmsd"])) == (one.relation, one.best, one.rmsd)


def test_best_is_black_box_and_on_the_same_sources(layouts):
    for layout in layouts:
        for line, target, one in numbers_of(layout):
            at = layout.targets.index(target)
            rivals = [other.rates[at] for other in layout.rows if other.sources == line.sources]
            strongest = max(other.value for other in rivals)
            assert one.best == (one.black and one.value == strongest)
    single = [replace(line, variant="mi") for line in layouts[0].rows if line.attack == "mi"]
    for metric, strongest in (("success", max), ("accuracy", min)):
        marked = paper_table.with_best(single, metric)
        for at in range(3):
            black = [line.rates[at] for line in marked if line.rates[at].black]
            assert {one.value for one in black if one.best} == {strongest(one.value for one in black)}
            assert not any(line.rates[at].best for line in marked if not line.rates[at].black)


def test_seeds_have_a_mean_and_a_standard_deviation(tiny_run):
    finished = open_run(str(tiny_run))
    spec = finished.spec.model_copy(update={"seeds": (7, 8)})
    again = finished.rows.with_columns(
        pl.lit(8, pl.Int64).alias("seed"), (pl.col("craft") + "x").alias("craft"), (pl.col("unit") + "x").alias("unit")
    ).filter(pl.col("image").hash(seed=1) % 2 == 0)
    (layout,) = paper_table.layouts(spec, pl.concat([finished.rows, again]), TableOptions(("ensembles",)))
    first, second = finished.rows.collect(), again.collect()
    for line, target, one in numbers_of(layout):
        key = {"attack": line.attack, "goal": "untargeted", "target": target}
        each = [
            rate(frame.filter(pl.col("sources") == line.sources.split("+"), **key), 1, "success")
            for frame in (first, second)
        ]
        assert one.value == pytest.approx(statistics.mean(each))
        assert one.std == pytest.approx(statistics.stdev(each))
        assert one.seeds == 2


def test_table_command(door, tiny_run, tmp_path):
    status, printed, error = door("table", tiny_run, "--experiment", "single", "--top", "5")
    assert status in (0, None), error
    assert "single, untargeted, top-5 success" in printed
    file = tmp_path / "table.tex"
    status, _, error = door("table", tiny_run, "--experiment", "ensembles", "--format", "latex", "--to", file)
    assert status in (0, None), error
    assert r"\toprule" in file.read_text()
    for words, parts in (
        (["--experiment", "singel"], ["no experiment named 'singel'", "single (the nearest)"]),
        (["--experiment", "single", "--format", "latx"], ["no format 'latx'", "latex (the nearest)"]),
        (["--experiment", "ensembles", "--metric", "match"], ["does not apply to untargeted", "accuracy or success"]),
        (["--experiment", "single", "--top", "6"], ["top 6"]),
        (["--experiment", "single", "--format", "csv", "--to", tmp_path / "no" / "x"], ["cannot be written"]),
    ):
        status, _, error = door("table", tiny_run, *words)
        assert status == 2, words
        for part in parts:
            assert part in error


def test_compare(door, tiny_run, tmp_path):
    status, _, error = door("compare", tiny_run)
    assert status == 2
    assert "published" in error
    data = yaml.safe_load(TINY)
    data["experiments"]["single"]["published"] = {"tables": ["liu2017:1B", "liu2017:19"]}
    path = tmp_path / "spec.yaml"
    path.write_text(yaml.safe_dump(data))
    status, printed, error = door("compare", tiny_run, "--spec", path, "--json", "--all")
    assert status in (0, None), error
    found = json.loads(printed)
    assert len(found["cells"]) == 699
    of_table = [one for one in found["cells"] if one["table"] == "1B"]
    assert {one["reason"] for one in of_table} == {f"the spec has no model '{name}'" for name in (
        "resnet152", "resnet101", "resnet50", "vgg16", "googlenet")}  # fmt: skip
    data["experiments"]["single"]["attacks"].append("pgd")
    path.write_text(yaml.safe_dump(data))
    status, _, error = door("compare", tiny_run, "--spec", path)
    assert (status, "belongs to another spec" in error) == (2, True)


NAMED = {"a": "resnet152", "b": "vgg16", "c": "googlenet"}


def test_compare_agrees_with_the_rows(door, tiny_run, tmp_path):
    """A copy of the tiny run whose models have the names of the paper."""
    run = tmp_path / "run"
    shutil.copytree(tiny_run, run)
    text = (run / "spec.yaml").read_text()
    data = yaml.safe_load(text)
    data["models"] = {NAMED[name]: model for name, model in data["models"].items()}
    data["experiments"]["single"]["published"] = ["liu2017:1B", "liu2017:10", "liu2017:25"]
    data["experiments"]["single"]["attacks"] = ["fg", "fgs"]
    (run / "spec.yaml").write_text(yaml.safe_dump(data))
    models = json.loads((run / "models.json").read_text())
    (run / "models.json").write_text(json.dumps({NAMED[name]: one for name, one in models.items()}))
    for part in (run / "results").rglob("*.parquet"):
        frame = pl.read_parquet(part).with_columns(
            pl.col("target").replace(NAMED), pl.col("sources").list.eval(pl.element().replace(NAMED))
        )
        frame.write_parquet(part)
    (run / "digests.json").unlink()  # digests of the original files
    status, printed, error = door("compare", run, "--json")
    assert status in (0, None), error
    found = json.loads(printed)
    assert len(found["cells"]) == 9 + 9 + 6
    for one in found["cells"]:
        mine = rows(tiny_run).filter(
            pl.col("sources").list.first().replace(NAMED) == one["sources"],
            pl.col("sources").list.len() == 1,
            pl.col("target").replace(NAMED) == one["target"],
            attack=one["attack"],
            goal=one["goal"],
        )
        expected = rate(mine, one["top"], one["metric"].partition("-")[2])
        assert one["ours"] == pytest.approx(expected)
        assert one["difference"] == pytest.approx(expected - one["value"])
    told = found["papers"]["liu2017"]
    assert told["images"]["here"] == 6
    assert told["models"]["resnet152"]["digest"] == models["a"]["digest"]
    tables_found = {one["table"]: one for one in found["tables"]}
    assert (tables_found["1B"]["comparable"], tables_found["1B"]["cells"]) == (9, 25)
    status, printed, error = door("compare", run, "--paper", "liu2017")
    assert status in (0, None), error
    for part in (
        "100 ILSVRC 2012 validation images",
        "trained with Caffe in the paper",
        "agreement",
        "not comparable: the spec has no model 'resnet50'",
    ):
        assert part in printed
    assert door("compare", run, "--paper", "lui2017")[0] == 2


STYLE = TableStyle(decimals=2, mean=True, intervals=True, names={"mi": "MI-FGSM", "a": "Net_A", "single": "Table 1"})


@pytest.fixture(scope="module")
def styled(tiny_run) -> list[Layout]:
    finished = open_run(str(tiny_run))
    return paper_table.layouts(finished.spec, finished.rows, TableOptions(("single",), style=STYLE))


def test_means_are_of_black_box_rates(styled):
    for layout in styled:
        for line in layout.rows:
            black = [one.value for one in line.rates if one.relation == "black"]
            assert line.mean.value == pytest.approx(statistics.mean(black))
            rivals = [other.mean.value for other in layout.rows if other.sources == line.sources]
            assert line.best_mean == (line.mean.value == max(rivals))
        made = grid(layout)
        assert made.columns == ("RMSD", "Net_A", "b", "c", "black-box mean")
        assert any("Black-box mean: mean of the black-box rates" in note for note in layout.notes)
        shown = [cell for section in made.sections for _, cells in section.rows for cell in cells[-1:]]
        assert shown == [line.mean for line in layout.rows]


def test_intervals_are_wilsons_of_the_images(styled):
    for layout in styled:
        for _, _, one in numbers_of(layout):
            low, high = interval_of_rate(one.value / 100 * 6, 6)
            assert (one.low, one.high) == pytest.approx((100 * low, 100 * high))
            assert one.text(style=STYLE) == f"{one.value:.2f} [{one.low:.2f}, {one.high:.2f}]"
        assert any("95 % interval" in note for note in layout.notes)


def test_intervals_of_accuracies_are_turned(tiny_run):
    finished = open_run(str(tiny_run))
    options = TableOptions(("ensembles",), metric="accuracy")
    for _, _, one in numbers_of(paper_table.layouts(finished.spec, finished.rows, options)[0]):
        low, high = interval_of_rate(one.value / 100 * 6, 6)
        assert (one.low, one.high) == pytest.approx((100 * low, 100 * high))


def test_names_decimals_and_seeds(styled):
    text = table_formats.markdown(styled)
    assert "**Table 1, untargeted, top-1 success**" in text
    assert "| MI-FGSM | Net\\_A |" in text
    assert "6 images" in text
    rate = TableRate(100 / 3, 100 / 7, 6, 3, "black", 1.0, low=10.0, high=60.0)
    assert (rate.text(), rate.text(style=TableStyle(decimals=1))) == ("33 ± 14.3", "33.3 ± 14.3")
    assert rate.text(style=TableStyle(intervals=True)) == "33 [10, 60]"


def test_attacks_across(tiny_run):
    finished = open_run(str(tiny_run))
    style = TableStyle(mean=True, across=True)
    (layout, _) = paper_table.layouts(finished.spec, finished.rows, TableOptions(("single",), style=style))
    made = grid(layout)
    assert made.columns == ("optimization", "fg", "fgs", "mi")
    down = {(line.sources, target, line.attack): one for line, target, one in numbers_of(layout)}
    assert [section.heading for section in made.sections] == ["a", "b", "c"]
    for section in made.sections:
        assert [name for name, _ in section.rows] == ["a", "b", "c", "black-box mean", "RMSD"]
        for name, cells in section.rows[:3]:
            assert list(cells) == [down[section.heading, name, attack] for attack in made.columns]
        means = {line.attack: line for line in layout.rows if line.sources == section.heading}
        assert list(section.rows[3][1]) == [means[attack].mean for attack in made.columns]
        assert list(section.rows[4][1]) == [means[attack].rmsd_text for attack in made.columns]
    (text,) = [part for part in table_formats.latex([layout]).split(r"\begin{table}") if part]
    assert latex_rows(text)[1] == ["Target", "optimization", "fg", "fgs", "mi"]


def test_siunitx(tiny_run, layouts):
    text = table_formats.siunitx(layouts)
    assert text.startswith("% \\usepackage{booktabs,siunitx}")
    for layout, part in zip(layouts, text.split(r"\begin{table}")[1:], strict=True):
        assert r"\begin{tabular}{l" + "S[table-format=3.2]" + 3 * (
            r"S[table-format=3.0,table-space-text-post={$^{*}$}]"
        ) + "}" in part  # fmt: skip
        body = part.splitlines()
        assert body[body.index(r"\toprule") + 1] == r"Sources & {RMSD} & {a} & {b} & {c} \\"
        lines = [line.removesuffix(r" \\").split(" & ") for line in body if line.count(" & ") == 4][1:]
        for line, (_, _, *cells) in zip(layout.rows, lines, strict=True):
            for one, cell in zip(line.rates, cells, strict=True):
                number = cell.removeprefix(r"\bfseries ").removesuffix("{$^{*}$}")
                assert number == f"{one.value:.0f}"
                assert cell.startswith(r"\bfseries") == one.best
                assert cell.endswith("{$^{*}$}") == (one.relation == "white")
        assert part.count("{") == part.count("}")
    rates = (TableRate(1.0, 0.5, 1000, 2, "black", 1.0), None)
    layout = Layout("e", "untargeted", "success", 1, ("t", "u"), (TableRow("a", "a", "x", rates),))
    text = table_formats.siunitx([layout])
    assert r"S[table-format=3.1(3),table-space-text-post={$^{*}$}]" in text
    assert r"x & 1.00 & 1.0 \pm 0.5 & {--} \\" in text
    wide = table_formats.siunitx([replace(layout, style=TableStyle(intervals=True))])
    assert r"\begin{tabular}{lccc}" in wide


def test_typst(layouts):
    text = table_formats.typst(layouts)
    for layout, part in zip(layouts, text.split("#figure(")[1:], strict=True):
        assert "columns: 5," in part
        assert "table.header([Sources], [RMSD], [a], [b], [c])," in part
        lines = re.findall(r"^    \[(.+?)\], (.*),$", part, re.M)
        for line, (sources, cells) in zip(layout.rows, lines[: len(layout.rows)], strict=True):
            shown = re.findall(r"\[((?:[^\[\]]|\[[^\]]*\])*)\](?:, |$)", cells)
            assert (sources.replace(" + ", "+"), shown[0]) == (line.sources, line.rmsd_text)
            for one, cell in zip(line.rates, shown[1:], strict=True):
                assert cell.endswith(r"#super[\*]") == (one.relation == "white")
                assert cell.removesuffix(r"#super[\*]").strip("*") == one.text()
                assert (cell.startswith("*")) == one.best
        assert f"<tab-single-{layout.goal}>" in part
    line = TableRow("a_b", "a_b", "x#1", (TableRate(1.0, None, 10, 1, "black", 1.0),))
    odd = table_formats.typst([Layout("e", "untargeted", "success", 1, ("t*1",), (line,))])
    for part in (r"_a\_b_", r"[x\#1]", r"[t\*1]"):
        assert part in odd


def test_csv_has_every_experiment_once_and_its_intervals(door, tiny_run, tmp_path):
    file = tmp_path / "table.csv"
    assert door("table", tiny_run, "--format", "csv", "--to", file)[0] == 0
    found = list(csv.DictReader(file.open()))
    assert {one["experiment"] for one in found} == {"single", "ensembles"}
    assert len(found) == 4 * 3 * 3 * 2 + 2 * 3 * 3
    for one in found:
        low, high = interval_of_rate(float(one["value"]) / 100 * 6, 6)
        assert (float(one["low"]), float(one["high"])) == pytest.approx((100 * low, 100 * high))


def test_options_of_the_command(door, tiny_run):
    status, printed, _ = door(
        "table", tiny_run, "--experiment", "ensembles", "--mean", "--decimals", "1", "--name", "mi=MI FGSM", "--name",
        "a=Net A", "--format", "markdown",
    )  # fmt: skip
    assert status == 0
    assert "| attack | sources | RMSD | Net A | b | c | black-box mean |" in printed
    assert "| MI FGSM | b + c |" in printed
    assert "|  | Net A + b |" in printed
    for words, parts in (
        (["--name", "mj=MI"], ["this study has no attack, model or experiment named 'mj'", "mi (the nearest)"]),
        (["--name", "mi"], ["'mi' is not a pair of names", "<name in the spec>=<name to print>"]),
        (["--decimals", "9"], ["--decimals 0 to 6"]),
        (["--experiment", "single", "--experiment", "singel"], ["no experiment named 'singel'"]),
    ):
        status, _, error = door("table", tiny_run, *words)
        assert status == 2, words
        for part in parts:
            assert part in error


def rates_of(*values: float) -> tuple[TableRate, ...]:
    return tuple(TableRate(value, None, 12, 1, "black", 4.0) for value in values)


def test_equal_means_are_bold_together():
    """Means of 7 and 7, and of 8 and 6 of 12: the same number, with other last bits."""
    first = TableRow("a", "a", "s", rates_of(100 * (7 / 12), 100 * (7 / 12)))
    second = TableRow("b", "b", "s", rates_of(100 * (8 / 12), 100 * (6 / 12)))
    assert first.mean.value != second.mean.value
    marked = paper_table.with_best([first, second], "success")
    assert [row.best_mean for row in marked] == [True, True]
    assert [[rate.best for rate in row.rates] for row in marked] == [[False, True], [True, False]]


@pytest.mark.parametrize(
    ("value", "decimals", "text"),
    [
        (62.5, 0, "63"),
        (12.5, 0, "13"),
        (37.5, 0, "38"),
        (6.25, 1, "6.3"),
        (-62.5, 0, "-63"),
        (100 / 3, 1, "33.3"),
        (0, 0, "0"),
    ],
)
def test_halves_are_rounded_up(value, decimals, text):
    assert fixed(value, decimals) == text


def test_latex_keeps_mathematics():
    assert table_formats.escaped(r"MI ($\mu=0.5$) & 5 %") == r"MI ($\mu=0.5$) \& 5 \%"
    assert table_formats.escaped("5 $ a_b") == r"5 \$ a\_b"


@pytest.mark.parametrize("words", [("--intervals", "--mean"), ("--across", "--intervals", "--decimals", "1")])
def test_a_narrow_terminal_gets_several_tables_and_whole_cells(door, tiny_run, words, monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    status, printed, error = door("table", str(tiny_run), "--experiment", "single", *words)
    assert status == 0, error
    lines = [line for line in printed.splitlines() if "[" in line]
    assert len(lines) > 12
    assert all(line.count("[") == line.count("]") for line in lines)
    assert printed.count("top-1 success") > 1
    assert not re.search(r"^[A-Z0-9]+ = ", printed, re.MULTILINE), "shorter names would not help"
