"""`study show --visibility`: what it says if no attack of a run has a table."""

from __future__ import annotations

import io
import shutil

import pytest
import yaml
from rich.console import Console

from study.commands.show import print_run
from tests.study.conftest import SMALL

MINIMAL = SMALL.replace("fgsm: {}", "fg-minimal: {budget: {minimal: {from: 1, to: 2, by: 1}}}").replace(
    "attacks: fgsm", "attacks: fg-minimal"
)


@pytest.fixture
def shown():
    def show(run, *, visible: bool) -> str:
        printed = io.StringIO()
        print_run(str(run), Console(file=printed, width=1000), visible=visible)
        return printed.getvalue()

    return show


def test_rows_without_a_table_of_visibility_are_told(finished, shown):
    run = finished(MINIMAL)
    assert shown(run, visible=True) == (
        f"{run} has rows, but no table of visibility, which leaves out attacks that search the minimal RMSD. "
        f"Their rates and RMSDs: study show {run}\n"
    )
    assert "fg-minimal" in shown(run, visible=False)


def test_a_run_without_rows(small, shown, tmp_path):
    shutil.copytree(small[2], tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "results")
    for visible in (True, False):
        assert shown(tmp_path / "run", visible=visible) == f"{tmp_path / 'run'} has no rows yet\n"


def test_rows_of_an_earlier_spec_have_no_table(finished, shown, tmp_path):
    run = shutil.copytree(finished(MINIMAL), tmp_path / "run")
    spec = yaml.safe_load((run / "spec.yaml").read_text())
    spec["experiments"]["all"]["sources"] = {"each": ["b"]}
    (run / "spec.yaml").write_text(yaml.safe_dump(spec, sort_keys=False))
    for visible in (True, False):
        assert shown(run, visible=visible) == f"{run} has no rows yet\n"
