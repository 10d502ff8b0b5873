"""Tracking of a launch where W&B's package is not installed: it is an extra of the project."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest
import yaml

from actors.launch.options import LaunchOptions
from actors.launch.tracking_session import tracked
from study.errors import StudyError
from study.spec.loading import from_data
from study.storage.run_folder import RunFolder
from tests.conftest import TINY


@pytest.fixture
def begin(tmp_path, monkeypatch):
    """Begins the tracking of a launch without the package; the lines for the user."""
    monkeypatch.setitem(sys.modules, "wandb", None)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    lines: list[str] = []

    def run(asked: str | None, **changes: object) -> list[str]:
        spec = from_data(yaml.safe_load(TINY) | changes, "spec").spec
        options = LaunchOptions(None, wandb=asked)
        with tracked(options, spec, RunFolder(tmp_path / "run"), SimpleNamespace(say=lines.append)) as session:
            assert session.tracker is None
        return lines

    return run


@pytest.mark.parametrize(("asked", "changes"), [("offline", {}), (None, {"tracking": {"wandb": "online"}})])
def test_what_asks_for_it_is_refused(begin, asked, changes):
    with pytest.raises(StudyError, match="needs the package wandb") as caught:
        begin(asked, **changes)
    assert caught.value.todo == "pip install 'transfer-study[wandb]'"


def test_a_variable_of_the_environment_asks_for_nothing_that_is_not_there(begin, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    [line] = begin(None)
    assert "WANDB_MODE is offline, but this launch is not tracked" in line
    assert "transfer-study[wandb]" in line


def test_without_tracking_the_package_is_not_looked_for(begin):
    assert begin(None) == []
