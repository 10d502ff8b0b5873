"""The requests and answers of chat endpoints."""

from __future__ import annotations

import base64
import json

import numpy as np
import pytest
from pydantic import ValidationError

from study.errors import StudyError
from study.models.services.chat import read_sentence, request_object
from study.models.services.client import Service
from study.models.services.reply import UnexpectedAnswer
from study.models.services.service_spec import Judge, Remote
from tests.services import FakeChat, fingerprint

CHAT = {"url": "http://a/v1/chat/completions", "api": "chat", "model": "m", "prompt": "Name it."}
IMAGES = np.random.default_rng(5).integers(0, 256, (4, 3, 6, 9), dtype=np.uint8)


def remote(**more):
    return Remote.model_validate(CHAT | more)


def test_requests():
    sent = request_object(remote(extra={"max_tokens": 9, "temperature": None}), b"png")
    assert sent == {
        "model": "m",
        "messages": [
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "Name it."},
                    {
                        "type": "image_url",
                        "image_url": {"url": "data:image/png;base64," + base64.b64encode(b"png").decode()},
                    },
                ],
            }
        ],
        "max_tokens": 9,
    }
    assert request_object(remote(), "Yes?")["messages"] == [{"role": "user", "content": "Yes?"}]
    assert request_object(remote(), "Yes?")["temperature"] == 0


def message(**given):
    finish = given.pop("finish_reason", "stop")
    return json.dumps({"choices": [{"message": given, "finish_reason": finish}]})


@pytest.mark.parametrize(
    ("body", "sentence", "refused"),
    [
        (message(content=" A cat.\n"), " A cat.\n", False),
        (message(content=[{"type": "text", "text": "A "}, {"type": "x"}, {"text": "cat"}]), "A cat", False),
        (message(content=None, refusal="No."), "No.", True),
        (message(content="A c", finish_reason="content_filter"), "A c", True),
        (message(content="A long", finish_reason="length"), "A long", False),
        (message(content=None), "", True),
        ('{"choices": [{"message": {"content": "\\ud800"}}]}', "?", False),
        ('{"error": {"code": "content_filter", "message": "no"}}', "", True),
    ],
)  # fmt: skip
def test_answers(body, sentence, refused):
    reply = read_sentence(body)
    assert (reply.sentence, reply.refused, reply.names) == (sentence, refused, ())


NONE = ["", "[]", "{}", '{"choices": []}', '{"choices": [{"message": null}]}', message(content=3), message(refusal=[])]


@pytest.mark.parametrize("body", NONE)
def test_what_is_no_answer(body):
    with pytest.raises(UnexpectedAnswer):
        read_sentence(body)


@pytest.mark.parametrize(
    ("given", "what"),
    [
        ({"model": None}, "needs a model and a prompt"),
        ({"prompt": ""}, "needs a model and a prompt"),
        ({"send": "json"}, "'send' does not apply"),
        ({"api": "labels"}, "'model' does not apply"),
        ({"api": "voice"}, "Input should be"),
        ({"extra": {"messages": []}}, "'messages', which it must not contain"),
        ({"extra": {"api_key": "x"}}, "looks like a credential"),
        ({"judge": {"prompt": "{answer} {label}"}}, "a judge without a model"),
        ({"judge": {"model": "b", "prompt": "{answer}"}}, "lacks {answer} or {label}"),
        ({"judge": {"model": "b", "prompt": ""}}, "lacks {answer} or {label}"),
        ({"judge": {"model": "b", "url": "ftp://x"}}, "`url` is not the address of a service"),
        ({"judge": {"model": "b", "url": "http://me:pw@x/"}}, "`url` contains a user name or a password"),
        ({"judge": {"model": "b", "extra": {"api_key": "x"}}}, "'api_key', which looks like a credential"),
        ({"judge": {"model": "b", "extra": {"messages": []}}}, "'messages', which it must not contain"),
        ({"judge": {"model": ""}}, "the model of a judge has an empty name"),
        ({"judge": {"refusals": [" "]}}, "an empty phrase"),
        ({"judge": "words"}, "judge"),
        ({"most": 0}, "greater than"),
        ({"queries": 0}, "greater than"),
    ],
)
def test_invalid_specs(given, what):
    with pytest.raises(ValidationError) as error:
        remote(**given)
    assert what in str(error.value)


def test_a_resolved_spec_is_itself():
    for given in ({}, {"judge": "keywords"}, {"judge": {"model": "b"}, "most": 9, "queries": 3}):
        one = remote(**given)
        assert Remote.model_validate(one.model_dump(mode="json")) == one
    assert remote().judge == Judge()
    assert Remote(url="http://a/").judge is None


def test_what_decides_answers():
    same = [remote(), remote(judge={"model": "b"}), remote(names={"a": ["b"]}), remote(most=3, rate=1.0, queries=2)]
    others = [remote(model="n"), remote(prompt="?"), remote(extra={"seed": 1}), remote(url="http://b/")]
    assert len({one.digest for one in same}) == 1
    assert len({one.digest for one in [*same, *others]}) == 5


def test_a_judging_model_has_its_own_address_and_credential():
    own = {"credentials": {"env": "A"}, "headers": {"X-A": "b"}}
    same, other = (remote(judge={"model": "b"} | more, **own).judging for more in ({}, {"url": "http://b/"}))
    assert (same.url, same.credentials.env, same.headers, same.model) == (CHAT["url"], "A", {"X-A": "b"}, "b")
    assert (other.url, other.credentials, other.headers) == ("http://b/", None, {})


def test_a_filter_refuses_single_images_with_an_error(tmp_path, monkeypatch):
    """Status 400 with the code of a filter is the answer about this image; any other 400 ends the study."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    quick = {"rate": 2000.0, "backoff": 0.01, "attempts": 2, "parallel": 1}

    class Filtering(FakeChat):
        code = "content_filter"

        def take(self, handler, body, came):
            if len(self.requests) == 1 and len(self.answered) == 1:
                self.answered["filtered"] += 1
                handler.answer(json.dumps({"error": {"code": self.code}}).encode(), 400)
            else:
                super().take(handler, body, came)

    for code in ("content_filter", "invalid_request"):
        with Filtering(say=fingerprint) as fake:
            Filtering.code = code
            box = Service("box", remote(url=fake.url, **quick), secret=None, cache=tmp_path / f"{code}.sqlite")
            if code == "invalid_request":
                with pytest.raises(StudyError, match="answered with status 400") as error:
                    box.ask(IMAGES)
                assert "temperature: null" in str(error.value)
                continue
            replies = box.ask(IMAGES)
            assert [reply.refused for reply in replies] == [False, True, False, False]
            assert replies[0].sentence == fingerprint(IMAGES[0])
            sent = box.sent
            assert box.ask(IMAGES) == replies
            assert box.sent == sent == 4
