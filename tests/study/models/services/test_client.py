"""The client of a service, against a local server that counts requests and misbehaves on demand."""

from __future__ import annotations

import base64
import json
import logging
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import numpy as np
import pytest

from study.errors import StudyError
from study.models.services import client as services
from study.models.services.client import Halted, Pacer, Service
from study.models.services.credentials import Secret, credential_of
from study.models.services.reply import Reply
from study.models.services.request import retry_after
from study.models.services.service_spec import Credentials, Remote
from study.process.interrupt import Interrupted
from tests.conftest import ROOT
from tests.services import GARBAGE, FakeService, by_brightness, fingerprint

IMAGES = np.random.default_rng(5).integers(0, 256, (12, 3, 6, 9), dtype=np.uint8)
QUICK = {"rate": 2000.0, "backoff": 0.01, "most_wait": 0.05, "timeout": 20.0}
VALUE = 'sk/4+2 "quoted"'


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture
def service(tmp_path):
    """Makes a client of a url, with one answer cache for the whole test."""

    def make(url: str, secret: Secret | None = None, **given) -> Service:
        remote = Remote.model_validate(QUICK | {"url": url} | given)
        return Service("box", remote, secret=secret, cache=tmp_path / "answers" / "box.sqlite")

    return make


def expected(images=IMAGES) -> list[Reply]:
    replies = []
    for pixels in images:
        said = sorted(by_brightness(pixels), key=lambda pair: -pair[1])
        replies.append(Reply(tuple(name for name, _ in said), tuple(score for _, score in said)))
    return replies


BODIES = {
    "png": {},
    "json": {"send": "json"},
    "json with extra": {"send": "json", "extra": {"model": "v3", "max_tokens": 5}},
    "json, deep": {
        "send": "json",
        "field": "inputs.0.data.base64",
        "extra": {"inputs": [{"data": {"more": 1}}], "top": 5},
        "find": lambda whole: whole["inputs"][0]["data"]["base64"],
    },
    "form": {"send": "form", "field": "file"},
}


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("body", BODIES)
def test_the_exact_pixels_arrive(service, body, channels):
    given = dict(BODIES[body])
    with FakeService(find=given.pop("find", lambda whole: whole["image"])) as fake:
        replies = service(fake.url + "?version=2", headers={"X-Version": "7"}, **given).ask(IMAGES[:, :channels])
    assert replies == expected(IMAGES[:, :channels])
    assert sorted(fake.images) == sorted(map(fingerprint, IMAGES[:, :channels]))
    for request in fake.requests:
        assert request.path == "/v1/classify?version=2"
        assert request.headers["X-Version"] == "7"
        if given.get("send") == "json":
            sent = json.loads(request.body)
            assert set(sent) >= set(given.get("extra", {}))
            assert sent.get("model", "v3") == "v3"


def test_replies_keep_the_order_and_equal_images_are_sent_once(service):
    def slower_for_some(pixels):
        time.sleep(0.05 * (int(pixels.sum()) % 3))
        return by_brightness(pixels)

    twice = np.concatenate([IMAGES, IMAGES[::-1]])
    with FakeService(slower_for_some) as fake:
        client = service(fake.url)
        assert client.ask(twice) == expected(twice)
        assert client.ask(IMAGES[:0]) == []
    assert (client.sent, client.cached) == (12, 0)
    assert set(fake.answered.values()) == {1}


def test_request_bytes_are_reproducible(service, tmp_path):
    with FakeService() as fake:
        for name in "ab":
            remote = Remote.model_validate(QUICK | {"url": fake.url})
            Service("box", remote, secret=None, cache=tmp_path / name).ask(IMAGES[:1])
    assert fake.requests[0].body == fake.requests[1].body


def test_one_request_in_three_fails(service):
    with FakeService(fail_every=3) as fake:
        client = service(fake.url, attempts=20)
        assert client.ask(IMAGES) == expected()
    assert client.sent == len(fake.requests) > 12
    assert set(fake.answered.values()) == {1}


@pytest.mark.parametrize("kind", GARBAGE)
def test_invalid_answers_are_requested_again(service, kind):
    with FakeService(garbage_every=2, garbage=[kind]) as fake:
        assert service(fake.url, attempts=30).ask(IMAGES[:4]) == expected(IMAGES[:4])
    assert len(fake.requests) > 4


@pytest.mark.parametrize("kind", GARBAGE)
def test_invalid_answers_alone_are_an_error_and_not_stored(service, kind):
    with FakeService(garbage_every=1, garbage=[kind]) as fake:
        with pytest.raises(StudyError, match="failed after 2 attempts") as error:
            service(fake.url, attempts=2).ask(IMAGES[:1])
        fake.garbage_every = 0
        assert service(fake.url).ask(IMAGES[:1]) == expected(IMAGES[:1])
    assert "0 of 1 answers are stored" in error.value.what
    assert error.value.status == 1


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504])
def test_temporary_statuses_are_retried(service, status):
    with FakeService(fail_every=2, status=status) as fake:
        assert service(fake.url, attempts=30, parallel=1).ask(IMAGES[:2]) == expected(IMAGES[:2])
    assert len(fake.requests) == 3


@pytest.mark.parametrize(
    ("status", "advice"),
    [
        (400, "compare url"),
        (401, "BOX_TOKEN"),
        (403, "BOX_TOKEN"),
        (404, "whole address"),
        (413, "too large"),
        (415, "correct send"),
        (422, "compare url"),
        (302, "a redirect to http"),
    ],
)
def test_permanent_statuses_are_reported_at_once(service, status, advice):
    headers = {"Location": "http://127.0.0.1:9/elsewhere?token=abc"} if status == 302 else {}
    with FakeService(fail_every=1, status=status, extra_headers=headers) as fake:
        client = service(fake.url, Secret(VALUE), credentials={"env": "BOX_TOKEN"}, parallel=1)
        with pytest.raises(StudyError, match=f"box at .* answered with status {status}") as error:
            client.ask(IMAGES)
    assert advice in str(error.value)
    assert "abc" not in str(error.value)
    assert (len(fake.requests), error.value.status) == (1, 1)


@pytest.mark.parametrize("bad", [{"trickle": 0.02}, {"slow_head": 0.02}, {"delay": 20.0}], ids=str)
def test_a_whole_answer_has_a_time_limit(service, bad):
    with FakeService(**bad) as fake:
        client = service(fake.url, timeout=0.3, attempts=2)
        with pytest.raises(StudyError, match=r"no whole answer within 0\.3 s"):
            client.ask(IMAGES[:1])
        fake.delay = fake.trickle = fake.slow_head = 0.0
        assert client.ask(IMAGES[:1]) == expected(IMAGES[:1])


def test_pauses_double_and_respect_retry_after(service, monkeypatch):
    waits = []

    async def recorded(seconds, halt):
        if halt.is_set():
            raise Halted
        waits.append(seconds)

    monkeypatch.setattr(services, "pause", recorded)
    later = format_datetime(datetime.now(UTC) + timedelta(hours=1), usegmt=True)
    for header, least, most in [({}, 0, 0), ({"Retry-After": "7"}, 7, 7), ({"Retry-After": later}, 10, 10)]:
        waits.clear()
        with FakeService(fail_every=1, status=429, extra_headers=header) as fake, pytest.raises(StudyError):
            service(fake.url, rate=100_000.0, backoff=1.0, most_wait=10.0, attempts=6).ask(IMAGES[:1])
        between = [seconds for seconds in waits if seconds > 0.1]
        for usual, seconds in zip([1, 2, 4, 8, 10], between, strict=True):
            assert max(0.75 * usual, least) <= seconds <= max(usual, most)


def test_retry_after():
    assert retry_after(" 12 ") == 12
    assert retry_after("9" * 5000) == float("inf")
    assert retry_after("Wed, 21 Oct 2015 07:28:00 GMT") == 0
    assert retry_after("soon") == retry_after("-3") == retry_after("") == 0


def test_turns_are_evenly_apart():
    pacer, now, turns = Pacer(4.0), 100.0, []
    for idle in [0, 0, 0, 0.1, 0, 3.0, 0]:
        now += idle
        now += pacer.reserve(now)
        turns.append(now - 100)
    assert turns == pytest.approx([0, 0.25, 0.5, 0.75, 1.0, 4.0, 4.25])


def test_no_request_comes_before_its_turn(service):
    with FakeService(fail_every=4) as fake:
        start = time.monotonic()
        service(fake.url, rate=40.0, parallel=8, attempts=30, backoff=0.001).ask(IMAGES)
    for number, came in enumerate(sorted(request.time for request in fake.requests)):
        assert came >= start + number / 40 - 0.005


def test_no_more_requests_at_once_than_allowed(service):
    at_once, most, lock = 0, 0, threading.Lock()

    def counting(pixels):
        nonlocal at_once, most
        with lock:
            at_once += 1
            most = max(most, at_once)
        time.sleep(0.02)
        with lock:
            at_once -= 1
        return by_brightness(pixels)

    with FakeService(counting) as fake:
        service(fake.url, parallel=3).ask(IMAGES)
    assert 1 <= most <= 3


def test_a_dead_service_fails_fast_and_a_revived_one_gets_the_missing_images(service):
    with FakeService(die_after=5) as fake:
        client = service(fake.url, attempts=3, parallel=2)
        with pytest.raises(StudyError, match=r"after 3 attempts: .* 5 of 12 answers are stored") as error:
            client.ask(IMAGES)
        assert "launch again" in str(error.value)
        before = client.sent
        with pytest.raises(StudyError, match="after 1 attempt"):
            client.ask(IMAGES)
        assert client.sent - before <= 2, "a service that is down gets one attempt, and no further image is sent"
        assert client.cached == 5
        fake.revive()
        again = service(fake.url)
        assert again.ask(IMAGES) == expected()
        assert (again.sent, again.cached) == (7, 5)
        assert client.ask(IMAGES) == expected()
    assert set(fake.answered.values()) == {1}
    assert len(fake.answered) == 12


def test_a_service_that_is_back_gets_all_attempts_again(service):
    with FakeService(fail_every=1) as fake:
        client = service(fake.url, attempts=2, parallel=1)
        with pytest.raises(StudyError):
            client.ask(IMAGES)
        fake.fail_every = 0
        client.ask(IMAGES[:1])
        fake.fail_every = 1
        with pytest.raises(StudyError, match="after 2 attempts"):
            client.ask(IMAGES)


KILLED = """
import sys
import numpy as np
from pathlib import Path
from study.models.services.service_spec import Remote
from study.models.services.client import Service
images = np.load(sys.argv[2])
remote = Remote(url=sys.argv[1], rate=1000.0, parallel=3)
Service("box", remote, secret=None, cache=Path(sys.argv[3])).ask(images)
"""


def test_after_a_kill_only_requests_under_way_are_repeated(tmp_path):
    images = np.random.default_rng(1).integers(0, 256, (60, 1, 5, 5), dtype=np.uint8)
    np.save(tmp_path / "images.npy", images)
    enough = threading.Event()

    def classify(pixels):
        time.sleep(0.01)
        if len(fake.answered) >= 20:
            enough.set()
        return by_brightness(pixels)

    with FakeService(classify) as fake:
        words = [fake.url, str(tmp_path / "images.npy"), str(tmp_path / "answers.sqlite")]
        asking = subprocess.Popen([sys.executable, "-c", KILLED, *words], cwd=ROOT)
        assert enough.wait(60)
        os.kill(asking.pid, signal.SIGKILL)
        assert asking.wait() == -signal.SIGKILL
        again = Service("box", Remote(url=fake.url, rate=1000.0), secret=None, cache=tmp_path / "answers.sqlite")
        assert again.ask(images) == expected(images)
    assert again.cached >= 17
    assert len(fake.answered) == 60
    assert set(fake.answered.values()) <= {1, 2}
    assert sum(times == 2 for times in fake.answered.values()) <= 3


def test_a_stop_keeps_answers_that_came(service):
    many = np.random.default_rng(2).integers(0, 256, (240, 1, 5, 5), dtype=np.uint8)
    with FakeService(delay=0.02) as fake:
        client = service(fake.url, parallel=2)
        with pytest.raises(Interrupted):
            client.ask(many, lambda: True)
        begun = client.sent
        assert begun == sum(fake.answered.values()) < 240
        fake.fail_every = 1
        with pytest.raises(Interrupted):
            service(fake.url, backoff=3000.0, most_wait=3000.0).ask(IMAGES, lambda: len(fake.requests) > begun)


def test_another_question_is_another_answer_and_another_path_is_not(service):
    with FakeService() as fake:
        service(fake.url).ask(IMAGES[:1])
        same = service(fake.url, labels="labels.0.label", scores=None, top=1, rate=7.0, timeout=9.0)
        assert same.ask(IMAGES[:1])[0].names == ("dark",)
        assert same.sent == 0
        for given in ({"headers": {"X-Version": "2"}}, {"send": "json"}, {"send": "json", "extra": {"a": 1}}):
            other = service(fake.url, **given)
            other.ask(IMAGES[:1])
            assert other.sent == 1, given
        with pytest.raises(
            StudyError, match="stored answer of box cannot be read: the answer has no 'outputs' at its top level"
        ):
            service(fake.url, labels="outputs.*").ask(IMAGES[:1])


WAYS = {
    "header": {"env": "BOX_TOKEN"},
    "other header": {"env": "BOX_TOKEN", "header": "X-Api-Key"},
    "query": {"env": "BOX_TOKEN", "query": "key"},
}


@pytest.mark.parametrize("way", WAYS)
def test_a_credential_is_sent_and_never_leaks(service, way, monkeypatch, caplog, tmp_path):
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("BOX_TOKEN", VALUE)
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login someone password else\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    credentials = Credentials.model_validate(WAYS[way])
    secret = pickle.loads(pickle.dumps(credential_of(Remote(url="http://a/", credentials=credentials))))
    written = [repr(secret), str(secret), f"{secret}", repr([secret])]
    with FakeService(lambda pixels: [(str(fake.requests[-1].headers) + fake.requests[-1].path, 1.0)]) as fake:
        client = service(fake.url, secret, credentials=WAYS[way], attempts=2)
        written += [str(client.ask(IMAGES[:3])), repr(client.describe()), str(vars(client))]
        for bad in ({"fail_every": 1}, {"fail_every": 1, "status": 401}, {"fail_every": 0, "garbage_every": 1}):
            vars(fake).update(bad)
            with pytest.raises(StudyError) as error:
                client.ask(IMAGES)
            written += [str(error.value), repr(error.value), pickle.dumps(error.value).decode("latin-1")]
        fake.die()
        with pytest.raises(StudyError) as error:
            client.ask(IMAGES)
        written.append(str(error.value))
    written += [caplog.text, (tmp_path / "answers" / "box.sqlite").read_bytes().decode("latin-1")]
    assert "/v1/classify" in caplog.text, "the log is captured"
    for text in written:
        for spelled in ("sk/4", "sk%2F4", "quoted", base64.b64encode(VALUE.encode()).decode()):
            assert spelled not in text
    headers, path = fake.requests[0].headers, fake.requests[0].path
    sent = {"header": headers.get("Authorization"), "other header": headers.get("X-Api-Key"), "query": path}[way]
    assert (
        sent
        == {
            "header": f"Bearer {VALUE}",
            "other header": VALUE,
            "query": "/v1/classify?key=sk%2F4%2B2+%22quoted%22",
        }[way]
    )
    assert ("Authorization" in headers) == (way == "header"), "nothing comes from ~/.netrc"


@pytest.mark.parametrize(
    ("value", "what"),
    [(None, "not set"), ("", "empty"), ("a\nb", "not a valid"), ("a ", "not a valid"), ("ä", "not a valid")],
)
def test_invalid_credentials(monkeypatch, value, what):
    if value is None:
        monkeypatch.delenv("BOX_TOKEN", raising=False)
    else:
        monkeypatch.setenv("BOX_TOKEN", value)
    with pytest.raises(StudyError, match=f"BOX_TOKEN .*{what}"):
        credential_of(Remote(url="http://a/", credentials=Credentials(env="BOX_TOKEN")))


def test_a_service_without_its_credential(service):
    with pytest.raises(StudyError, match="box needs a credential"):
        service("http://127.0.0.1:9/", credentials={"env": "BOX_TOKEN"})


def test_cookies_are_not_sent_back(service):
    with FakeService(fail_every=2, extra_headers={"Set-Cookie": "who=me"}) as fake:
        service(fake.url, attempts=9, parallel=1).ask(IMAGES[:3])
    assert all("Cookie" not in request.headers for request in fake.requests)


def test_record_of_a_service(service):
    given = {"headers": {"X-Version": "2"}, "credentials": {"env": "BOX_TOKEN"}}
    said = service("https://example.org/v1?a=b", Secret(VALUE), **given).describe()
    assert said.pop("remote") == "https://example.org/v1"
    assert len(said.pop("digest")) == 64
    assert said == {"send": "png", "field": "image", "labels": "labels.*.label", "top": 5}
    digests = {
        Remote.model_validate({"url": "http://a/", **more}).digest
        for more in ({}, {"url": "http://a/?b=1"}, {"send": "json"}, {"field": "f"}, {"top": 4}, {"labels": "a"})
    }
    assert len(digests) == 6
    assert Remote(url="http://a/").digest == Remote(url="http://a/", rate=1.0, credentials=Credentials(env="A")).digest
