"""The README shows real specs, columns and answers."""

from __future__ import annotations

import ast
import re
import statistics

import pytest
import torch
import yaml

import actors.launch.launch
from actors.backends.in_process import InProcess
from study.models.catalogue import SHORT_NAMES
from study.results.schema import SCHEMA
from study.spec.loading import resolve
from study.spec.yaml_document import parse
from tests.conftest import ROOT, TINY

ONE = {"attacks": {}, "experiments": {"x": {"attacks": ["mi"], "sources": ["a"]}}}

README = (ROOT / "README.md").read_text()


def blocks(language: str, text: str = README) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, re.S)


def test_polars_answers(many_run):
    """The README's own lines, on a run of two goals, three seeds, two steps and two budgets, against loops."""
    _, first, others = blocks("python")
    # A search of the minimal RMSD ends at a budget of its own for each image: the README says so.
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


SMALLER = {
    "images": {"sample": "foolbox", "size": 48, "keep": "all", "count": 2},
    "models": {
        "lite0": {"network": "timm:test_resnet", "weights": "random:1", "size": 48},
        "lite1": {"network": "torchvision:squeezenet1_1", "weights": "random:2", "size": 48},
    },
    "attacks": {"mi": {"epsilon": 16, "steps": 2}, "fgsm": {"epsilon": 16}},
    "experiments": {"single-source": {"attacks": ["mi", "fgsm"], "sources": "each"}},
    "numerics": {"batch": 2, "threads": 1},
}


def test_the_python_door(tmp_path, monkeypatch, capsys):
    """The README's own lines, on a smaller quickstart, and in this process."""
    door, *_ = blocks("python")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setattr(actors.launch.launch, "RayBackend", lambda *_: InProcess())
    whole = yaml.safe_load((ROOT / "specs" / "quickstart.yaml").read_text()) | SMALLER
    (tmp_path / "specs").mkdir()
    (tmp_path / "specs" / "quickstart.yaml").write_text(yaml.safe_dump(whole))
    images = torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 32 * 32, 5)).eval()
    names: dict = {"model": network, "images": images, "labels": torch.tensor([0, 1, 2])}
    answers = []
    for statement in ast.parse(door).body:
        if isinstance(statement, ast.Expr):
            answers.append(eval(ast.unparse(statement), names))
        else:
            exec(ast.unparse(statement), names)
    matrix, black = answers
    assert names["adversarial"].dtype == torch.uint8
    assert (names["adversarial"].int() - images).abs().max() == 8
    assert "single-source, untargeted" in capsys.readouterr().out
    assert matrix.columns == ["sources", "seeds", "images", "lite0", "lite1"]
    pairs = set(zip(black["sources"].list.first(), black["target"], strict=True))
    assert pairs == {("lite0", "lite1"), ("lite1", "lite0")}
    assert black.height == 2 * 2 * 2


def succeeds(row: dict) -> bool:
    return row["top1"] == row["target_label"] if row["goal"] == "targeted" else row["top1"] != row["label"]


def succeeds_among_five(row: dict) -> bool:
    return row["target_label"] in row["top5"] if row["goal"] == "targeted" else row["label"] not in row["top5"]


def same(row: dict, other: dict, *keys: str) -> bool:
    return all(row[key] == other[key] for key in keys)


def test_the_spec_shown_is_the_one_shipped():
    (shown,) = blocks("yaml")
    assert yaml.safe_load(shown) == yaml.safe_load((ROOT / "specs" / "quickstart.yaml").read_text())


def test_the_columns_named_are_the_columns():
    (named,) = re.findall(r"A row has `(.*?)`", README, re.S)
    assert re.split(r",\s+", named) == SCHEMA.names


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
