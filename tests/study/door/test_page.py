"""Every code block of docs/python.md runs as it is written, in one session, and prints what the page shows."""

from __future__ import annotations

import contextlib
import io
import re

import polars as pl
import pytest

from tests.conftest import ROOT

PAGE = ROOT / "docs" / "python.md"
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.M | re.S)
_SECONDS = re.compile(r"complete in \d+ s: ")


@pytest.mark.usefixtures("_own_tables")
def test_page_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    ((kind, spec), *blocks) = BLOCK.findall(PAGE.read_text(encoding="utf-8"))
    assert kind == "yaml"
    (tmp_path / "transfer.yaml").write_text(spec)
    namespace: dict[str, object] = {}
    said = ""
    for kind, text in blocks:
        if kind == "python":
            assert not said, f"the page does not show this output: {said}"
            seen = io.StringIO()
            with contextlib.redirect_stdout(seen):
                exec(compile(text, str(PAGE), "exec"), namespace)
            said = _SECONDS.sub("complete in … s: ", seen.getvalue())
            continue
        assert kind == "text"
        assert said == text
        said = ""
    assert not said


@pytest.fixture
def _own_tables():
    with pl.Config():
        yield
