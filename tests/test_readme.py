"""The README shows real specs, columns and answers."""

from __future__ import annotations

import ast
import re

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
    kept = ".filter(pl.col('attack') != 'fg-minimal')\n"
    names: dict = {}
    scan = f'pl.scan_parquet("{many_run}/results")'
    code = first.replace('pl.scan_parquet("runs/quickstart/results")\n', scan + kept).replace("print(", "answer = (")
    exec(code, names)
    everything = names["rows"].collect().to_dicts()
    cells: dict[tuple, list[dict]] = {}
    for one in everything:
        key = (one["craft"], one["steps"], one["budget"], one["target"])
        cells.setdefault(key, []).append(one)
    answer = names["answer"]
    assert answer.height == len(cells)
    for row in answer.iter_rows(named=True):
        mine = cells[row["craft"], row["steps"], row["budget"], row["target"]]
        assert row["images"] == len(mine) == 4
        assert row["success"] == pytest.approx(sum(map(succeeds, mine)) / 4)
        assert row["rmsd"] == pytest.approx(sum(one["rmsd"] for one in mine) / 4)
    answers = []
    for statement in ast.parse(others).body:
        exec(f"last = {ast.unparse(statement)}", names)
        answers.append(names["last"])
    across, transfer, seeds, top5, mistaken, images = answers
    black = [one for one in everything if one["relation"] == "black"]
    for row in transfer.iter_rows(named=True):
        mine = [one for one in black if same(one, row, *across)]
        assert row["success"] == pytest.approx(sum(map(succeeds, mine)) / len(mine))
    assert {(row["attack"], row["goal"], row["steps"], row["budget"]) for row in transfer.to_dicts()} == {
        (attack, goal, steps, budget)
        for attack, steps, budget in (("pgd", 1, 16.0), ("pgd", 2, 16.0), ("fgsm", 1, 4.0), ("fgsm", 1, 16.0))
        for goal in ("untargeted", "targeted")
    }
    for row in seeds.filter(attack="pgd").iter_rows(named=True):
        mine = [one for one in everything if same(one, row, "sources", "target", "attack", "goal", "steps", "budget")]
        assert row["len"] == len({one["seed"] for one in mine}) == 3
        assert row["success"] == pytest.approx(sum(map(succeeds, mine)) / len(mine))
    for row in top5.iter_rows(named=True):
        mine = cells[row["craft"], row["steps"], row["budget"], row["target"]]
        assert row["top5"] == pytest.approx(sum(one["label"] not in one["top5"] for one in mine) / 4)
    assert set(mistaken["label"]) == {
        one["label"] for one in everything if one["goal"] == "untargeted" and succeeds(one)
    }
    for row in images.iter_rows(named=True):
        mine = [one for one in everything if same(one, row, "image", "attack", "goal", "steps", "budget")]
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
    (images,) = blocks("yaml", (ROOT / "docs" / "images.md").read_text())
    models = {name: {} for name in ("resnet50", "vgg16", "senet154")}
    spec = resolve(parse(yaml.safe_dump({"study": "x", "models": models, **yaml.safe_load(images)}), "spec")).spec
    assert spec.attacks["theirs"].precomputed == "adversarial/{sources}"


def test_every_short_name_is_told():
    told = (ROOT / "docs" / "models.md").read_text()
    assert all(f"`{name}`" in told for name in SHORT_NAMES)
