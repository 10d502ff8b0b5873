"""Who decides whether a study is tracked."""

from __future__ import annotations

import pytest

from study.errors import StudyError
from study.tracking.settings import Tracking, mode, project


@pytest.mark.parametrize(
    ("spec", "asked", "environment", "expected"),
    [
        (None, None, {}, "disabled"),
        (None, None, {"WANDB_API_KEY": "0" * 40}, "disabled"),
        (None, None, {"WANDB_MODE": "offline"}, "offline"),
        (None, None, {"WANDB_MODE": "dryrun"}, "disabled"),
        ("online", None, {"WANDB_MODE": "offline"}, "online"),
        ("online", "disabled", {"WANDB_MODE": "offline"}, "disabled"),
        (None, "offline", {}, "offline"),
    ],
)
def test_the_command_line_before_the_spec_before_the_environment(spec, asked, environment, expected):
    assert mode(Tracking(wandb=spec), asked, environment) == expected


def test_an_unknown_mode_is_named():
    with pytest.raises(StudyError, match="W&B has no mode 'ofline'"):
        mode(Tracking(), "ofline", {})


def test_project():
    assert project(Tracking(), {}) == "study"
    assert project(Tracking(), {"WANDB_PROJECT": "theirs"}) == "theirs"
    assert project(Tracking(project="mine"), {"WANDB_PROJECT": "theirs"}) == "mine"
