"""Every code block of docs/analysis.md runs and prints the output that the page shows.

`text` blocks are the same on every machine. `output` blocks hold numbers of one machine: other machines print as many
lines, with the same column names. The test runs the page on images of 64 pixels, for the sake of seconds.
"""

from __future__ import annotations

import contextlib
import io
import re

import polars as pl
import pytest

from tests.conftest import ROOT, run_here

PAGE = ROOT / "docs" / "analysis.md"
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.M | re.S)


def words(line: str) -> list[str]:
    return re.findall(r"[a-z_]{2,}[a-z_0-9]*", line)


@pytest.fixture
def _own_tables():
    with pl.Config():
        yield


@pytest.mark.usefixtures("_own_tables")
def test_page_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ((_, study), *blocks) = BLOCK.findall(PAGE.read_text(encoding="utf-8"))
    (tmp_path / "tutorial.yaml").write_text(study)
    smaller = ("run.actors=1", "images.size=64", *(f"models.{name}.size=64" for name in ("lite0", "lite1", "lite2")))
    status, printed = run_here(tmp_path / "tutorial.yaml", tmp_path / "runs" / "tutorial", *smaller)
    assert status == 0, printed
    namespace: dict[str, object] = {}
    said = ""
    for kind, text in blocks:
        if kind == "python":
            assert not said, f"the page does not show this output: {said}"
            seen = io.StringIO()
            with contextlib.redirect_stdout(seen):
                exec(compile(text, str(PAGE), "exec"), namespace)
            said = seen.getvalue()
            continue
        if kind == "text":
            assert said == text
        else:
            assert kind == "output"
            ours, shown = said.splitlines(), text.splitlines()
            assert len(ours) == len(shown), said
            heads = [at for at, line in enumerate(shown) if at == 0 or shown[at - 1].startswith("┌")]
            assert [words(ours[at]) for at in heads] == [words(shown[at]) for at in heads]
        said = ""
    assert not said
