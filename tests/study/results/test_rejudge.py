"""Judging answers again is refused before anything is copied if the spec does not fit the run."""

from __future__ import annotations

import pytest

from study.errors import StudyError
from study.results.rejudge import rejudge
from study.spec.loading import resolve
from study.spec.yaml_document import parse
from study.storage.run_folder import RunFolder
from tests.conftest import TINY

CHAT = '  chat: {remote: {api: chat, url: "http://127.0.0.1:9/", model: m, prompt: "What?"}}\n'


def test_a_spec_without_the_chat_service(tmp_path):
    run = RunFolder(tmp_path / "run")
    run.path.mkdir()
    run.spec.write_text(resolve(parse(TINY.replace("attacks:\n", f"{CHAT}attacks:\n", 1), "spec")).spec.text())
    with pytest.raises(StudyError) as caught:
        rejudge(run, resolve(parse(TINY, "spec")).spec, tmp_path / "new")
    error = caught.value
    assert error.what == "the run has the chat service 'chat', but the spec does not"
    assert error.accepted == "the run's spec.yaml, with changes of `judge` and `names` only"
    assert error.todo == "add the model 'chat' to the spec, with `api: chat`, as the run's spec.yaml has it"
    assert not (tmp_path / "new").exists()
