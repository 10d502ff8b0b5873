"""Figures: the points of lines, and escaping of names."""

from __future__ import annotations

import io
from xml.etree import ElementTree

import polars as pl
import pytest
from PIL import Image

from study.report import figures
from study.report.curves import curves
from study.spec.loading import resolve
from study.spec.yaml_document import parse

ODD = 'x_1^2 $\\frac{1} "&<script>'

SPEC = """
study: s
images: {sample: foolbox}
models:
  a: {network: "timm:test_resnet", weights: "random:1", size: 56}
  b: {network: "timm:test_resnet", weights: "random:2", size: 56}
  c: {network: "timm:test_resnet", weights: "random:3", size: 56}
attacks:
  mi: {steps: 4, checkpoints: [1, 2]}
  fgsm: {epsilon: [2, 4]}
  weak: {preset: sgm, skip_gradient: {gamma: 0.2}}
  middle: {preset: sgm, skip_gradient: {gamma: 0.5}}
  strong: {preset: sgm, skip_gradient: {gamma: 0.8}}
experiments:
  one: {attacks: [mi, fgsm, weak, middle, strong], sources: {each: [a, b]}}
"""


def cell(sources: str, target: str, attack: str, point: tuple[int, float], success: float) -> dict[str, object]:
    steps, level = point
    return {
        "sources": sources,
        "target": target,
        "attack": attack,
        "goal": "untargeted",
        "steps": steps,
        "level": level,
        "seeds": 1,
        "images": 10,
        "success": success,
        "std": None,
        "rmsd": 5.0 + success,
        "relation": "white" if sources == target else "black",
        "gradients": steps,
        "low": success - 0.1,
        "high": success + 0.1,
    }


def drawn(cells: list[dict[str, object]]):
    spec = resolve(parse(SPEC, "spec.yaml")).spec
    return dict(curves(pl.DataFrame(cells, infer_schema_length=None), spec, spec.experiments["one"]))


def test_steps_and_gradients():
    points = [(1, 16.0), (2, 16.0), (4, 16.0)]
    cells = [cell(whose, "c", "mi", at, at[0] / 10 + (whose == "b") / 10) for at in points for whose in "ab"]
    cells += [cell("a", "a", "mi", at, 1.0) for at in points]
    found = drawn(cells)
    assert [(x, round(rate, 9)) for x, rate, *_ in found["steps"]["c"]["b"]] == [(1, 0.2), (2, 0.3), (4, 0.5)]
    means = [(x, round(rate, 9)) for x, rate, *_ in found["gradients"]["c"]["mi"]]
    assert means == [(1, 0.15), (2, 0.25), (4, 0.45)], "several attacks have means over sources"
    assert set(found["steps"]) == {"c"}, "lines have no white-box cells"
    assert [x for x, *_ in found["gradients"]["c"]["mi"]] == [1, 2, 4]


def test_a_line_varies_in_one_number():
    cells = [cell("a", "c", "fgsm", (1, level), level / 10) for level in (2.0, 4.0)]
    cells += [cell("a", "c", "mi", (steps, 16.0), 0.5) for steps in (1, 2, 4)]
    found = drawn(cells)
    assert [(x, rate) for x, rate, *_ in found["gradients"]["c"]["fgsm"]] == [(1, 0.4)]
    assert "mi" not in found["budget"]["c"]


def test_one_cell_has_its_interval_and_a_mean_has_none():
    found = drawn([cell("a", "c", "fgsm", (1, 2.0), 0.2), cell("a", "c", "fgsm", (1, 4.0), 0.6)])
    assert found["budget"]["c"]["fgsm"] == [(2, 0.2, 0.1, pytest.approx(0.3)), (4, 0.6, 0.5, 0.7)]


def test_line_along_a_number_of_the_recipes():
    success = {"weak": 0.7, "middle": 0.6, "strong": 0.3}
    found = drawn([cell("a", "c", name, (10, 16.0), rate) for name, rate in success.items()])
    points = [(0.2, 0.7), (0.5, 0.6), (0.8, 0.3)]
    assert [(x, rate) for x, rate, *_ in found["skip_gradient.gamma"]["c"]["weak"]] == points
    assert "momentum" not in found
    both = [cell(whose, "c", name, (10, 16.0), rate) for name, rate in success.items() for whose in "ab"]
    assert set(drawn(both)["skip_gradient.gamma"]["c"]) == {"a", "b"}, "one line per source"


def test_two_values_are_no_curve():
    spec = resolve(parse(SPEC.replace("weak, middle, strong", "weak, strong"), "spec.yaml")).spec
    cells = [cell("a", "c", name, (10, 16.0), 0.5) for name in ("weak", "strong")]
    assert "skip_gradient.gamma" not in dict(curves(pl.DataFrame(cells), spec, spec.experiments["one"]))


def test_experiment_without_black_box_targets_is_drawn():
    found = drawn([cell("a", "a", "fgsm", (1, level), level / 10) for level in (2.0, 4.0)])
    assert [(x, rate) for x, rate, *_ in found["budget"]["a"]["fgsm"]] == [(2, 0.2), (4, 0.4)]


def test_a_line_needs_two_points():
    assert figures.curve({"c": {"mi": [(1.0, 0.5, 0.4, 0.6)]}}, "steps", "t") is None
    assert figures.curve({}, "steps", "t") is None


def test_names_are_escaped():
    points = [(1.0, 0.5, 0.4, 0.6), (2.0, 0.6, 0.5, 0.7)]
    figure = figures.curve({ODD: {ODD: points, "other": points}}, ODD, ODD)
    assert figure is not None
    element = figures.inlined(figures.svg(figure), "f1-", ODD)
    root = ElementTree.fromstring(element)
    said = "".join(root.itertext())
    assert said.count(ODD) >= 3
    assert not [one for one in root.iter() if one.tag.endswith("script")]
    ids = [one.get("id") for one in root.iter() if one.get("id")]
    assert ids
    assert all(one.startswith("f1-") for one in ids)
    used = {one[1:] for each in root.iter() for key, one in each.items() if key.endswith("href")}
    assert used <= set(ids)


def test_same_cells_give_same_bytes(tmp_path):
    points = {"t": {"mi": [(1.0, 0.5, 0.4, 0.6), (2.0, 0.6, 0.5, 0.7)]}}
    for name in ("one", "two"):
        album = figures.Album(tmp_path / name)
        album.add("a b/c", figures.curve(points, "steps", "t"))
        album.add("a b/c", figures.curve(points, "steps", "t"))
    files = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert files == [f"a_b_c{mark}.{ending}" for mark in ("", "_") for ending in ("pdf", "png", "svg")]
    assert all((tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes() for name in files)


def test_files_without_titles_for_papers(tmp_path):
    points = {"t": {"mi": [(1.0, 0.5, 0.4, 0.6), (2.0, 0.6, 0.5, 0.7)]}}
    for titles in (True, False):
        album = figures.Album(tmp_path / str(titles), titles=titles)
        drawing = album.add("x", figures.curve(points, "smoothing.sigma", "study one"))
        written = (tmp_path / str(titles) / "x.svg").read_text()
        assert "study one: success against standard deviation of the noise" in drawing.svg
        assert ("study one" in ElementTree.canonicalize(written)) == titles
        assert "standard deviation of the noise, pixel values" in written
        assert "success rate on black-box targets, %" in written
        assert (tmp_path / str(titles) / "x.pdf").read_bytes().startswith(b"%PDF-")
        assert b"Type3" not in (tmp_path / str(titles) / "x.pdf").read_bytes()


def test_a_long_title_widens_the_file():
    points = [(1.0, 0.5, 0.4, 0.6), (2.0, 0.6, 0.5, 0.7)]
    widths = []
    for title in ("t", "an-experiment-with-a-very-long-name-" * 4):
        figure = figures.curve({"target": {"mi": points, "b": points}}, "steps", title)
        with Image.open(io.BytesIO(figures.png(figure))) as picture:
            widths.append(picture.width / 200 / figure.get_figwidth())
    assert widths[0] < 1.05
    assert widths[1] > 1.5, "a text wider than the figure is not cut off"


def test_axes_name_numbers_of_every_curve():
    assert figures.axis_words("skip_gradient.gamma") == "gradient of residual branches, factor gamma"
    assert figures.axis_words("views.ssa.sigma") == "views.ssa.sigma"


def test_destruction_figure():
    schema = {"attack": pl.String, "target": pl.String, "destruction": pl.Float64}
    rows = [("mi", "jpeg", 0.25), ("mi", "blur", 0.5), ("fgsm", "jpeg", None), ("fgsm", "blur", 0.125)]
    figure = figures.destruction(pl.DataFrame(rows, schema=schema, orient="row"), ["mi", "fgsm"], "t")
    assert figure is not None
    (axes,) = figure.axes
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["jpeg", "blur"]
    points = {
        line.get_label(): [*zip(map(round, line.get_xdata()), line.get_ydata(), strict=True)] for line in axes.lines
    }
    assert points == {"mi": [(0, 25.0), (1, 50.0)], "fgsm": [(1, 12.5)]}
    assert figures.destruction(pl.DataFrame(schema=schema), [], "t") is None
