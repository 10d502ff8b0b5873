"""What the README shows is what one gets."""

from __future__ import annotations

import re

import polars as pl
import yaml

from study.document import parse
from study.models.catalogue import SHORT_NAMES
from study.results.schema import SCHEMA
from study.spec import resolve
from tests.conftest import ROOT, TINY

ONE = {"attacks": {}, "experiments": {"x": {"attacks": ["mi"], "sources": ["a"]}}}

README = (ROOT / "README.md").read_text()


def blocks(language: str, text: str = README) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, re.S)


def test_polars_answers(tiny_run, capsys):
    """The README's own lines, on a real run; the answer is compared with a loop."""
    first, others = blocks("python")
    names: dict = {}
    exec(first.replace("runs/quickstart", str(tiny_run)).replace("print(", "answer = ("), names)
    answer = names["answer"]
    assert answer.height == 54
    row = answer.filter(pl.col("sources") == ["a"], attack="mi", target="b")
    mine = names["rows"].filter(pl.col("sources") == ["a"], attack="mi", target="b").collect().to_dicts()
    assert row["success"][0] == sum(one["top5"][0] != one["label"] for one in mine) / len(mine)
    for line in others.splitlines():
        exec(f"last = {line}", names)
        assert names["last"].height > 0, line


def test_the_spec_shown_is_the_one_shipped():
    (shown,) = blocks("yaml")
    assert yaml.safe_load(shown) == yaml.safe_load((ROOT / "specs" / "quickstart.yaml").read_text())


def test_the_columns_named_are_the_columns():
    (named,) = re.findall(r"A row has `(.*?)`", README, re.S)
    assert re.split(r",\s+", named) == SCHEMA.names


def test_what_the_pages_on_models_and_images_show_is_a_spec(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "names.yaml").write_text("n01440764: [tinca]\n")
    (service,) = blocks("yaml", (ROOT / "docs" / "models.md").read_text())
    whole = yaml.safe_load(TINY) | {"models": {"a": "resnet50", **yaml.safe_load(service)}, **ONE}
    spec = resolve(parse(yaml.safe_dump(whole), "spec")).spec
    assert spec.models["service"].remote.names == {"n01440764": ("tinca",)}
    (images,) = blocks("yaml", (ROOT / "docs" / "images.md").read_text())
    models = {name: {} for name in ("resnet50", "vgg16", "senet154")}
    spec = resolve(parse(yaml.safe_dump({"study": "x", "models": models, **yaml.safe_load(images)}), "spec")).spec
    assert spec.attacks["theirs"].made == "adversarial/{sources}"


def test_every_short_name_is_told():
    told = (ROOT / "docs" / "models.md").read_text()
    assert all(f"`{name}`" in told for name in SHORT_NAMES)
