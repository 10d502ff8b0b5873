"""What the README shows is what one gets."""

from __future__ import annotations

import re

import polars as pl
import yaml

from study.results.schema import SCHEMA
from tests.conftest import ROOT

README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.S)


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
