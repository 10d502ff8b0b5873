"""A dashboard's panels name what is logged, and what is in the way of one is said."""

from __future__ import annotations

import importlib.util
import io
import shutil

import pytest
from rich.console import Console

from study.errors import StudyError
from study.planning.resume import spec_of
from study.storage.run_folder import RunFolder
from study.tracking.dashboard import dashboard, sections
from tests.study.tracking.service import KEY, serving


@pytest.fixture
def run(tiny_run, tmp_path, monkeypatch):
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    folder = shutil.copytree(tiny_run, tmp_path / "run")
    (folder / "tracked.json").write_text('{"id": "tiny-0", "plans": ["x"]}')
    return folder


def _refused(run) -> StudyError:
    with pytest.raises(StudyError) as refused:
        dashboard(str(run), Console(file=io.StringIO()))
    return refused.value


def test_what_is_in_the_way(run, monkeypatch):
    pytest.importorskip("wandb_workspaces")
    with serving() as (service, address):
        monkeypatch.setenv("WANDB_BASE_URL", address)
        assert "there is no key" in str(_refused(run))
        monkeypatch.setenv("WANDB_API_KEY", KEY)
        service.fault = lambda what: b"<html>"
        assert "W&B did not make the dashboard" in str(_refused(run))
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert "disables uploads" in str(_refused(run))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert "needs the package wandb" in str(_refused(run))
    (run / "tracked.json").unlink()
    assert "was never tracked" in str(_refused(run))


def test_panels_are_about_what_is_logged(tiny_run):
    pytest.importorskip("wandb_workspaces")
    found = sections(spec_of(RunFolder(tiny_run)))
    transfer = next(section for section in found if section.name == "Transfer")
    assert [panel.title for panel in transfer.panels] == [
        "single, untargeted", "single, targeted", "ensembles, untargeted",
    ]  # fmt: skip
    assert "live/units_per_second" in str(found)
