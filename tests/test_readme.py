"""What README.md says is so: its code runs, its numbers are those of files and packages. Rows: docs/run-folder.md."""

from __future__ import annotations

import ast
import importlib.util
import re
import statistics
import sys
import tomllib

import pytest
import torch
import yaml

from study.attacks import presets
from study.models.catalogue import SHORT_NAMES
from study.results.schema import SCHEMA
from study.spec.loading import resolve
from study.spec.yaml_document import parse
from tests.conftest import ROOT, TINY, run_here

ONE = {"attacks": {}, "experiments": {"x": {"attacks": ["mi"], "sources": ["a"]}}}

README = (ROOT / "README.md").read_text()
RUN_FOLDER = (ROOT / "docs" / "run-folder.md").read_text()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def blocks(language: str, text: str = README) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, re.S)


def test_three_lines_of_python():
    (shown,) = blocks("python")
    assert len([line for line in shown.splitlines() if line.strip()]) == 3
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 32 * 32, 5)).eval()
    generator = torch.Generator().manual_seed(0)
    integers = torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8, generator=generator)
    for images in (integers, integers / 255):
        names: dict = {"model": network, "images": images, "labels": torch.tensor([0, 1, 2])}
        exec(shown, names)
        assert names["adversarial"].dtype == images.dtype
        moved = (names["adversarial"].double() - images.double()).abs().max().item()
        assert moved == pytest.approx(8 if images.dtype == torch.uint8 else 8 / 255)


def test_ten_lines_of_yaml_are_a_study(tmp_path):
    (shown,) = blocks("yaml")
    assert len(shown.splitlines()) == 10
    spec = resolve(parse(shown, "first.yaml")).spec
    assert (spec.study, spec.images.count, list(spec.models)) == ("first", 12, ["lite0", "lite1"])
    (tmp_path / "first.yaml").write_text(shown)
    small = [f"models.{name}.size=96" for name in spec.models]
    fewer = ("images.count=2", "images.size=96", "images.keep=all", "experiments.table1.attacks=[mi]", *small)
    verbose = [line for line in shown.splitlines() if "package:" in line]
    assert len(verbose) == 2
    (tmp_path / "first.yaml").write_text(re.sub(r"(lite\d): (package:\w+).*", WITH_NETWORK, shown))
    status, printed = run_here(tmp_path / "first.yaml", tmp_path / "run", *fewer)
    assert status == 0, printed
    ((_, output),) = COMMAND.findall(README)
    for line in ("table1, untargeted", "Untargeted success rate (%): adversarial images that the target misclassifies"):
        assert line in printed
        assert line in output


WITH_NETWORK = r'\1: {network: "timm:tf_efficientnet_\1", weights: "\2"}'
COMMAND = re.compile(r"^```\n\$ (study launch first\.yaml)\n(.*?)```", re.M | re.S)


def test_the_command_and_its_output(tmp_path):
    """As shown, but in this process: what names Ray or a time is left out, and another machine rounds otherwise."""
    (shown,) = blocks("yaml")
    ((_, output),) = COMMAND.findall(README)
    (tmp_path / "first.yaml").write_text(shown)
    status, printed = run_here(tmp_path / "first.yaml", tmp_path / "run")
    assert status == 0, printed
    cells = [[re.findall(r"(\d+)\*?(?=\s|$)", line) for line in rows_of(text)] for text in (output, printed)]
    assert len(cells[0]) == len(cells[1]) == 5
    for mine, theirs in zip(*cells, strict=True):
        assert all(abs(int(one) - int(other)) <= 17 for one, other in zip(mine, theirs, strict=True)), printed


def rows_of(text: str) -> list[str]:
    """The rows of the table: attacks and sources, and clean images."""
    return [line for line in text.splitlines() if re.match(r"\s+(mi\S*\s+lite|lite|clean images)", line)]


def test_the_figure_shows_the_numbers_beside_it():
    drawing = site_module("figure")
    found = drawing.read()
    assert set(found["matrix"]["images"]) == {int(re.search(r"(\d+) images, shown to three", README)[1])}
    assert (found["matrix"].height, found["means"].height) == (27, 9)
    for path in re.findall(r"docs/figures/[\w-]+\.svg", README):
        _, scheme, shape = (ROOT / path).stem.split("-")
        (mine,) = (one for one in drawing.SCHEMES if one.name == scheme)
        assert drawing.drawn(found, mine, shape) == (ROOT / path).read_text(), f"python docs/site/figure.py: {path}"
    text = (ROOT / "specs/small/authors-cost-cifar10.yaml").read_text()
    spec = resolve(parse(text, "s", environment={"STUDY_DATA": "/"})).spec
    assert {attack.budget.epsilon for attack in spec.attacks.values()} == {4.0}
    assert f"budget of 4 of 255 and each at its authors' cost; {spec.images.count} images" in README
    shown = {name: 100 * rate for name, rate in found["means"].select("attack", "success").rows()}
    results = (ROOT / "docs" / "results" / "README.md").read_text()
    for name, label in drawing.NAMES.items():
        known = "|".join([re.escape(label), "SSA with momentum", rf"I-FGSM \(`{name}`\)", f"{label} on I-FGSM"])
        pattern = rf"^\| (?:{known}) \| [\d,]+ \| ([\d.]+) \|"
        rates = [float(one) for one in re.findall(pattern, results, re.M)]
        assert any(abs(one - shown[name]) < 0.06 for one in rates), (name, rates, shown[name])


def site_module(name: str):
    found = importlib.util.spec_from_file_location(f"site_{name}", ROOT / "docs" / "site" / f"{name}.py")
    module = importlib.util.module_from_spec(found)
    sys.modules[found.name] = module
    found.loader.exec_module(module)
    return module


def test_what_the_installation_says():
    needs = {re.match(r"[\w-]+", one)[0]: one for one in PROJECT["dependencies"]}
    text = README[README.index("## Install") : README.index("## When to use it")]
    for name, version in re.findall(r"(torch|torchvision|Ray) (\d+\.\d+)", text):
        assert f">={version}" in needs[name.lower()]
    assert PROJECT["requires-python"] == ">=3.11"
    assert "Python 3.11 or newer" in text
    extras = PROJECT["optional-dependencies"].keys() - {"dev"}
    assert extras == set(re.findall(r"`(\w+)`", text)) & extras
    assert f"`{PROJECT['name']}`" in text
    assert re.search(rf"\[{PROJECT['license']}\]\(LICENSE\)", README)


def test_the_counts_of_the_comparison():
    torchattack = pytest.importorskip("torchattack")
    torchattacks = pytest.importorskip("torchattacks")
    from torchattack.attack import ATTACK_REGISTRY

    (row,) = re.findall(r"^\| attacks \|(.*)$", README, re.M)
    ours, transferattack, second, first, _ = row.strip(" |").split(" | ")
    assert ours.startswith(f"{len(presets.known())} presets")
    assert torchattack
    assert first.startswith(f"{len(ATTACK_REGISTRY)}, ")
    kinds = [one for one in vars(torchattacks).values() if isinstance(one, type)]
    attacks = [one.__name__ for one in kinds if issubclass(one, torchattacks.attack.Attack)]
    assert second.startswith(f"{len(set(attacks) - {'VANILA', 'MultiAttack', 'Attack'})}, ")
    assert transferattack.startswith("127 names")


def test_polars_answers(many_run):
    """The lines of docs/run-folder.md, on a run of two goals, three seeds, two steps and two budgets, against loops."""
    first, others = blocks("python", RUN_FOLDER)
    # A search of the minimal RMSD ends at a budget of its own for each image: the page says so.
    loaded = f'study.load("{many_run}").rows.filter(pl.col("attack") != "fg-minimal")'
    names: dict = {}
    exec(first.replace('study.load("runs/quickstart").rows', loaded).replace("print(", "answer = ("), names)
    everything = names["rows"].to_dicts()
    point, cell = names["point"], names["cell"]
    for row in names["seeds"].iter_rows(named=True):
        mine = [one for one in everything if same(one, row, *cell, "seed")]
        assert row["images"] == len(mine) == 4
        assert row["success"] == pytest.approx(sum(map(succeeds, mine)) / 4)
        assert row["rmsd"] == pytest.approx(sum(one["rmsd"] for one in mine) / 4)
    answer = names["answer"]
    assert answer.height == len({str([one[key] for key in cell]) for one in everything})
    for row in answer.iter_rows(named=True):
        mine = [one for one in everything if same(one, row, *cell)]
        rates = [[succeeds(one) for one in mine if one["seed"] == seed] for seed in {one["seed"] for one in mine}]
        assert (row["seeds"], row["images"]) == (len(rates), 4)
        assert row["success"] == pytest.approx(statistics.mean(map(statistics.mean, rates)))
        spread = statistics.stdev(map(statistics.mean, rates)) if len(rates) > 1 else None
        assert row["std"] == (None if spread is None else pytest.approx(spread))
    assert {row["seeds"] for row in answer.to_dicts()} == {3}
    answers = [eval(ast.unparse(statement), names) for statement in ast.parse(others).body]
    black, white, top5, mistaken, images = answers
    points = {tuple(one[key] for key in point) for one in everything}
    for relation, means in (("black", black), ("white", white)):
        assert {tuple(row[key] for key in point) for row in means.to_dicts()} == points
        assert means.height == len(points)
        for row in means.iter_rows(named=True):
            mine = [one["success"] for one in answer.filter(relation=relation).to_dicts() if same(one, row, *point)]
            assert (row["success"], row["len"]) == (pytest.approx(statistics.mean(mine)), len(mine))
    for row in top5.iter_rows(named=True):
        mine = [one for one in everything if same(one, row, *cell, "seed")]
        assert row["success"] == pytest.approx(sum(map(succeeds_among_five, mine)) / 4)
    wrong = [one for one in everything if one["goal"] == "untargeted" and one["relation"] == "black" and succeeds(one)]
    assert mistaken.height == len({tuple(one[key] for key in (*point, "label")) for one in wrong})
    for row in mistaken.iter_rows(named=True):
        mine = [one["top1"] for one in wrong if same(one, row, *point, "label")]
        assert set(row["top1"]) == set(statistics.multimode(mine))
    for row in images.iter_rows(named=True):
        mine = [one for one in everything if one["relation"] == "black" and same(one, row, "image", *point)]
        assert (row["len"], row["success"]) == (len(mine), pytest.approx(sum(map(succeeds, mine)) / len(mine)))


def succeeds(row: dict) -> bool:
    return row["top1"] == row["target_label"] if row["goal"] == "targeted" else row["top1"] != row["label"]


def succeeds_among_five(row: dict) -> bool:
    return row["target_label"] in row["top5"] if row["goal"] == "targeted" else row["label"] not in row["top5"]


def same(row: dict, other: dict, *keys: str) -> bool:
    return all(row[key] == other[key] for key in keys)


def test_the_columns_named_are_the_columns():
    table = RUN_FOLDER[RUN_FOLDER.index("| column |") : RUN_FOLDER.index("## Rates from rows")]
    named = [name for line in table.splitlines()[2:] for name in re.findall(r"`(\w+)`", line.split(" | ")[0])]
    assert named == SCHEMA.names


def test_what_the_pages_on_models_and_images_show_is_a_spec(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "names.yaml").write_text("n01440764: [tinca]\n")
    (service,) = (one for one in blocks("yaml", (ROOT / "docs" / "models.md").read_text()) if "remote" in one)
    whole = yaml.safe_load(TINY) | {"models": {"a": "resnet50", **yaml.safe_load(service)}, **ONE}
    spec = resolve(parse(yaml.safe_dump(whole), "spec")).spec
    assert spec.models["service"].remote.names == {"n01440764": ("tinca",)}
    (tmp_path / "synonyms.yaml").write_text("n01440764: [fish]\n")
    (chat,) = blocks("yaml", (ROOT / "docs" / "chat.md").read_text())
    whole["models"] |= yaml.safe_load(chat)
    remote = resolve(parse(yaml.safe_dump(whole), "spec")).spec.models["chat"].remote
    assert (remote.api, remote.most, remote.queries) == ("chat", 2000, 50)
    (images,) = blocks("yaml", (ROOT / "docs" / "images.md").read_text())
    models = {name: {} for name in ("resnet50", "vgg16", "senet154")}
    spec = resolve(parse(yaml.safe_dump({"study": "x", "models": models, **yaml.safe_load(images)}), "spec")).spec
    assert spec.attacks["theirs"].precomputed == "adversarial/{sources}"


def test_every_short_name_is_told():
    told = (ROOT / "docs" / "models.md").read_text()
    assert all(f"`{name}`" in told for name in SHORT_NAMES)
