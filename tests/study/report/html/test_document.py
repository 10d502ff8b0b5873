"""The report as a file: numbers against a loop over the rows, escaping, reproducibility, missing rows."""

from __future__ import annotations

import csv
import html.parser
import json
import re
import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import yaml
from PIL import Image

from study.analysis.experiments import averaged
from study.errors import StudyError
from study.papers.run_comparison import OTHER_IMAGES
from study.report.html import components, gallery
from study.report.html.document import write
from study.report.html.report_data import read_report_data
from tests.conftest import FEWER, TINY, rows, run_here

HOSTILE = "</script><script>window.harmed=1</script>"
SMALLER = {
    "images": {"sample": "foolbox", "size": 32, "keep": "all", "count": 6},
    "models": {
        name: {"network": "timm:test_resnet", "weights": f"random:{seed}", "size": 32} for seed, name in enumerate("ab")
    },
}
"""Of the tiny study, for tests that need rows of their own."""
QUOTED = '"a" & <b onmouseover="window.harmed=2">'


class Tables(html.parser.HTMLParser):
    """Every table of a page by its caption: rows of (text, tip); the elements, ids and attributes of the page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tables: dict[str, list[list[tuple[str, str]]]] = {}
        self.elements: list[str] = []
        self.ids: list[str] = []
        self.attributes: set[str] = set()
        self._caption = self._in = ""
        self._tip = self._said = ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.elements.append(tag)
        self.attributes |= set(given)
        self.ids += [given["id"]] if "id" in given else []
        if tag in ("caption", "td", "th"):
            self._in, self._said, self._tip = tag, "", given.get("title", "")
        if tag == "tr" and self._caption:
            self.tables[self._caption].append([])

    def handle_data(self, data):
        self._said += data

    def handle_endtag(self, tag):
        if tag == "caption":
            self._caption = self._said
            self.tables[self._caption] = []
        elif tag in ("td", "th") and self._caption:
            self.tables[self._caption][-1].append((self._said, self._tip))
        elif tag == "table":
            self._caption = ""


def written(run: Path, tmp_path: Path, **options) -> str:
    write(run, tmp_path / "report.html", **options)
    return (tmp_path / "report.html").read_text()


@pytest.fixture(scope="module")
def report(tiny_run, tmp_path_factory) -> str:
    return written(tiny_run, tmp_path_factory.mktemp("report"))


def hit(one) -> bool:
    return one["top1"] == one["target_label"] if one["goal"] == "targeted" else one["top1"] != one["label"]


@pytest.mark.parametrize("goal", ["untargeted", "targeted"])
def test_matrices_agree_with_the_rows(tiny_run, report, goal):
    head, *lines, clean = Tables(report).tables[f"single, {goal}"]
    assert [said for said, _ in head] == ["attack", "sources", "images", "RMSD", "a", "b", "c"]
    assert len(lines) == 12
    assert clean[0][0] == "clean images"
    everything = rows(tiny_run).filter(goal=goal)
    for (attack, _), (sources, _), (images, _), (moved, _), *cells in lines:
        mine = everything.filter(pl.col("sources") == [sources], attack=attack)
        assert images == "6"
        assert moved == f"{mine['rmsd'].mean():.2f}"
        for target, (shown, tip) in zip("abc", cells, strict=True):
            those = [hit(one) for one in mine.filter(target=target).iter_rows(named=True)]
            assert shown.rstrip("*") == f"{100 * sum(those) / 6:.0f}"
            assert shown.endswith("*") == (target == sources)
            assert f"{100 * sum(those) / 6:.2f} % of 6 images" in tip


def test_leave_one_out(tiny_run, report):
    head, *lines = Tables(report).tables["ensembles, untargeted: ensembles against the model they leave out"]
    assert [said for said, _ in head] == ["attack", "RMSD", "without a", "without b", "without c", "black-box mean"]
    everything = rows(tiny_run).filter(goal="untargeted")
    for (attack, _), _, *cells, (mean, _) in lines:
        rates = []
        for held, (shown, _) in zip("abc", cells, strict=True):
            sources = [name for name in "abc" if name != held]
            mine = everything.filter(pl.col("sources") == sources, attack=attack, target=held)
            rates.append(sum(hit(one) for one in mine.iter_rows(named=True)) / mine.height)
            assert shown == f"{100 * rates[-1]:.0f}"
        assert mean == f"{100 * sum(rates) / 3:.1f}"


def test_page_needs_no_other_file(report):
    assert not re.findall(r"""(?:src|href)=["'](?!#|data:)""", report)
    assert "default-src 'none'" in report
    assert "@import" not in report
    found = Tables(report)
    assert len(found.ids) == len(set(found.ids))
    assert found.elements.count("svg") >= 2


def test_summary(tiny_run, report):
    everything = rows(tiny_run)
    # An image costs the gradients of its whole attack once, however many targets classify it.
    images = everything.group_by("craft", "image").agg(pl.col("gradients").max())
    for name, count in {
        "rows": everything.height,
        "attack runs": everything["craft"].n_unique(),
        "units": everything["unit"].n_unique(),
        "image gradients": images["gradients"].sum(),
    }.items():
        assert f"<dt>{name}</dt><dd>{count:,}</dd>" in report
    assert "not complete" not in report
    for model in json.loads((tiny_run / "models.json").read_text()).values():
        assert model["digest"] in report


def test_long_tables_are_cut_and_come_with_code(tiny_run, tmp_path, monkeypatch):
    monkeypatch.setattr(components, "_MOST_ROWS", 5)
    page = written(tiny_run, tmp_path)
    assert "The first 5 of 12 rows." in page
    found = {html.unescape(code) for code in re.findall("<pre[^>]*>(import study\n.*?)</pre>", page, re.S)}
    assert {code.splitlines()[-1].partition("(")[0] for code in found} >= {"analysis.transfer_matrix", "rows.head"}
    for code in found:
        exec(code, {})


def test_same_run_gives_same_bytes(tiny_run, report, tmp_path):
    assert written(tiny_run, tmp_path, figures=tmp_path / "one") == report
    assert written(tiny_run, tmp_path, figures=tmp_path / "two") == report
    files = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert {Path(name).suffix for name in files} == {".svg", ".png", ".pdf"}
    for name in files:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_missing_rows_and_failures(finished, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(finished(FEWER), run)
    before = read_report_data(str(run)).row_count
    lost = sorted((run / "results").iterdir())[0]
    fewer = pl.read_parquet(lost).height
    lost.unlink()
    failures = [{"unit": "u1", "target": None, "error": "boom <b>&\nsecond line"}]
    (run / "failures.json").write_text(json.dumps({"failures": failures}))
    found = read_report_data(str(run))
    assert found.row_count == before - fewer
    have = sum(have for have, _ in found.progress.values())
    planned = sum(planned for _, planned in found.progress.values())
    assert planned == before
    assert have == before - fewer
    page = written(run, tmp_path)
    alert = page[page.index('class="alert"') :]
    assert page.index('class="alert"') < page.index("<h2>")
    assert "This run is not complete." in alert
    assert Tables(page).tables["Failures of the last launch"][1][2][0] == "boom <b>&\nsecond line"


def test_seeds(tmp_path, spec_file):
    experiments = {"one": {"attacks": ["mi"], "sources": ["a"], "seeds": [1, 2, 3]}}
    spec = spec_file(SMALLER | {"experiments": experiments})
    assert run_here(spec, tmp_path / "run")[0] == 0
    (mine,) = averaged(read_report_data(str(tmp_path / "run")).cells.filter(target="b")).to_dicts()
    each = [
        np.mean([hit(one) for one in part.iter_rows(named=True)])
        for part in rows(tmp_path / "run").filter(target="b").partition_by("seed")
    ]
    assert (mine["seeds"], mine["images"]) == (3, 6)
    assert mine["success"] == pytest.approx(np.mean(each))
    assert mine["std"] == pytest.approx(np.std(each, ddof=1))


@pytest.fixture(scope="session")
def hostile_run(tmp_path_factory) -> Path:
    """A run whose labels and paths contain markup."""
    folder = tmp_path_factory.mktemp("hostile")
    draw = np.random.default_rng(0)
    lines = []
    for index in range(2):
        place = folder / "images" / f"{index}<" / "script><script>window.harmed=3<"
        place.mkdir(parents=True)
        Image.fromarray(draw.integers(0, 256, (48, 48, 3), dtype=np.uint8)).save(place / 'script>"&.png')
        lines.append([str((place / 'script>"&.png').relative_to(folder / "images")), str(index), str(1 - index)])
    with (folder / "list.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["file", "label", "target"], *lines])
    spec = yaml.safe_load(TINY)
    spec["images"] = {
        "folder": str(folder / "images"),
        "list": str(folder / "list.csv"),
        "size": 48,
        "fit": "exact",
        "keep": "all",
        "labels": [HOSTILE, QUOTED, *(f"label {index}" for index in range(998))],
    }
    spec["run"]["keep_images"] = True
    spec["experiments"] = {"single": {"attacks": ["mi", "optimization"], "sources": ["b"], "goal": "targeted"}}
    (folder / "spec.yaml").write_text(yaml.safe_dump(spec))
    status, printed = run_here(folder / "spec.yaml", folder / "run")
    assert status == 0, printed
    (folder / "run" / "failures.json").write_text(
        json.dumps({"failures": [{"unit": HOSTILE, "target": QUOTED, "error": HOSTILE}]})
    )
    return folder / "run"


def test_markup_in_names_is_escaped(hostile_run, tmp_path):
    page = written(hostile_run, tmp_path)
    found = Tables(page)
    assert "onmouseover" not in found.attributes
    assert found.elements.count("script") == 2, "the data of the gallery, and our script"
    assert "<script>window.harmed" not in page
    assert found.tables["Failures of the last launch"][1] == [(HOSTILE, ""), (QUOTED, ""), (HOSTILE, "")]
    data = re.search(r'<script type="application/json" id="gallery-data">(.*?)</script>', page, re.S)
    said = json.loads(data[1])
    assert len(said["images"]) == 2
    assert {"yes", "no"} >= {line[3] for lines in said["images"] for each in lines.values() for line in each}
    assert len(re.findall("script&gt;&lt;script&gt;window.harmed=3&lt;", page)) >= 2, "in the ids of the images"


def test_kept_images_are_in_the_gallery(hostile_run, tmp_path):
    page = written(hostile_run, tmp_path)
    # For each of two images: one clean, and an adversarial one of each of two crafts. The page draws the difference.
    assert page.count("data:image/webp") == 2 * (1 + 2)
    assert page.count('data-craft="1" hidden') == 2
    assert page.count('data-craft="0">') == 2


def test_every_card_has_a_picture(tiny_run, report):
    """Also without adversarial pixels: the clean image."""
    cards = report.split('<article class="card">')[1:]
    assert len(cards) == 6
    assert all("data:image/webp" in card for card in cards)


def test_the_page_begins_with_the_answer_and_ends_with_internals(tiny_run, report):
    text = html.unescape(report)
    assert "How well do adversarial images of 5 attacks (optimization, fg, fgs, mi and summed)" in text
    assert "fool 3 target models? 6 ImageNet images of 48 x 48 pixels" in text
    found = Tables(report).tables
    for name, goals in (("single", ("untargeted", "targeted")), ("ensembles", ("untargeted",))):
        for goal in goals:
            head, *lines = found[f"Ranking of attacks: {name}, {goal}"]
            assert [said for said, _ in head][:4] == ["attack", "black-box mean, %", "95 %", "behind the first"]
            rates = [float(line[1][0]) for line in lines]
            assert rates == sorted(rates, reverse=True)
            for (attack, _), (rate, _), *_ in lines:
                cells = averaged(read_report_data(str(tiny_run)).cells_of(name, goal)).filter(attack=attack)
                black = cells.filter(relation="black")["success"]
                assert rate == f"{100 * black.mean():.1f}"
    parts = ['class="lead"', "Ranking of attacks: single, untargeted"]
    parts += [f'id="{name}"' for name in ("experiment-single", "gallery", "internals", "models", "provenance")]
    order = [text.index(part) for part in parts]
    assert order == sorted(order)


def test_figures_have_more_than_one_point(tmp_path, spec_file):
    """One attack on one source has one mark in every scatter: no figure."""
    spec = spec_file(SMALLER | {"experiments": {"one": {"attacks": ["mi"], "sources": ["a"]}}})
    assert run_here(spec, tmp_path / "run")[0] == 0
    page = written(tmp_path / "run", tmp_path, figures=tmp_path / "figures")
    assert "<svg" not in page
    assert list((tmp_path / "figures").iterdir()) == []


def test_missing_clean_images(finished, tmp_path, monkeypatch):
    def gone(images, seed):
        raise StudyError("the folder is gone")

    monkeypatch.setattr(gallery, "candidates", gone)
    page = written(finished(FEWER), tmp_path)
    assert "No pictures: the folder is gone." in page
    assert "data:image" not in page
    assert 'class="card"' not in page, "no card without a picture"


def test_command(door, finished, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(finished(FEWER), run)
    status, printed, error = door("report", run)
    assert status == 0, error
    assert (run / "report.html").is_file()
    assert f"{run / 'report.html'}: " in printed
    status, _, error = door("report", tmp_path / "nothing")
    assert status == 2
    assert "is not the run folder" in error
    status, _, error = door("report", run, "--to", tmp_path / "no" / "such.html")
    assert status == 2
    assert "--to" in error


def test_findings_and_geometry(tmp_path, spec_file):
    changes = SMALLER | {
        "experiments": {"one": {"attacks": ["mi"], "sources": ["a"]}},
        "geometry": {
            "angles": {"probe": "gradient-cosine"},
            "line": {"probe": "intervals", "along": {"gradient_of": "a"}, "distances": {"from": 0, "to": 9, "by": 3}},
        },
        "findings": {
            "white": {
                "claim": "on <itself> an attack succeeds",
                "source": "nobody",
                "check": {"rate": {"of": {"experiment": "one", "boxes": "white"}, "above": 0.1}},
            }
        },
    }
    status, printed = run_here(spec_file(changes), tmp_path / "run")
    assert status == 0, printed
    page = written(tmp_path / "run", tmp_path, figures=tmp_path / "figures")
    tables = Tables(page).tables
    assert tables["Claims and evidence"][1][1][0] == "on <itself> an attack succeeds"
    shown = {line[0][0]: [said for said, _ in line[1:]] for line in tables["angles: gradients"][1:]}
    angles = pl.read_parquet(tmp_path / "run" / "geometry" / "angles" / "*.parquet").filter(first="a", second="b")
    assert shown["a"][1] == shown["b"][0] == f"{angles['cosine'].mean():.3f}"
    assert {one.name for one in (tmp_path / "figures").glob("geometry-*.svg")} >= {"geometry-angles-matrix.svg"}


def test_report_and_study_compare_agree(tmp_path, spec_file, door, monkeypatch):
    """Both find the cosines of a probe, and tell which images are compared."""
    monkeypatch.setitem(OTHER_IMAGES, ("liu2017", "33"), "two images of cats")
    small = {"resnet152": ("timm:test_resnet", 1), "vgg16": ("timm:test_efficientnet", 2)}
    changes = {
        "models": {
            name: {"network": network, "weights": f"random:{seed}", "size": 32}
            for name, (network, seed) in small.items()
        },
        "experiments": {"one": {"attacks": ["mi"], "sources": ["resnet152"], "published": "liu2017:33"}},
        "geometry": {"angles": {"probe": "gradient-cosine"}},
    }
    status, printed = run_here(spec_file(changes), tmp_path / "run")
    assert status == 0, printed
    assert "images used for table 33 of the paper: two images of cats" in door("compare", tmp_path / "run")[1]
    status, said, error = door("compare", tmp_path / "run", "--json")
    assert status == 0, error
    compared = [one for one in json.loads(said)["cells"] if one["comparable"]]
    assert {frozenset((one["sources"], one["target"])) for one in compared} >= {frozenset(small)}
    page = written(tmp_path / "run", tmp_path)
    assert (
        "Images of the paper: 100 ILSVRC 2012 validation images that its five models classify correctly. "
        "Table 33 of the paper: two images of cats. "
        "This run has 6 images, which may be other images than the paper&#39;s."
    ) in page
    tables = Tables(page).tables
    shown = {(line[1][0], line[2][0]): line[5][0] for line in tables["Table 33: cosine"][1:]}
    assert shown == {(one["sources"], one["target"]): f"{one['ours']:.2f}" for one in compared}
