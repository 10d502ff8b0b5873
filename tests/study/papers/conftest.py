"""The run of many attacks that analysis is tested on answers the papers' questions too."""

from __future__ import annotations

from tests.study.analysis.conftest import *  # noqa: F403
