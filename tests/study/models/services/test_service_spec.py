"""The spec of a service, and its names for labels."""

from __future__ import annotations

import subprocess
import sys
from datetime import datetime

import pytest
from pydantic import ValidationError

from study.errors import StudyError
from study.images.labels import label_set
from study.models.services.label_names import check_names, names_of_label
from study.models.services.service_spec import Remote
from tests.conftest import ROOT

BAD = {
    "no scheme": ({"url": "example.org"}, "not the address"),
    "another scheme": ({"url": "ftp://example.org/"}, "not the address"),
    "no host": ({"url": "http:///x"}, "not the address"),
    "a port that is none": ({"url": "http://a:99999/"}, "not the address"),
    "a line": ({"url": "http://a/\nb"}, "not the address"),
    "a fragment": ({"url": "http://a/#token"}, "not the address"),
    "a user": ({"url": "http://me:hidden@a/"}, "a user name or a password"),
    "a user alone": ({"url": "http://hidden@a/"}, "a user name or a password"),
    **{
        f"{key} in url": ({"url": f"http://a/?x=1&{key}=hidden"}, f"`url` contains '{key}'")
        for key in ("key", "token", "api_key", "access_token", "client_secret", "password", "sig_auth")
    },
    **{
        f"header {name}": ({"headers": {name: "hidden"}}, f"the header '{name}' looks like a credential")
        for name in ("Authorization", "x-api-key", "Cookie", "Proxy-Authorization", "X-Token", "My-Secret")
    },
    "header that is ours": ({"headers": {"Content-Type": "a"}}, "is set by the HTTP client"),
    "header that is none": ({"headers": {"a b": "c"}}, "not valid in HTTP"),
    "header of two lines": ({"headers": {"A": "b\r\nC: hidden"}}, "not one line"),
    "header twice": ({"headers": {"A": "b", "a": "c"}}, "the same name twice"),
    "header of the credential": (
        {"headers": {"X-A": "b"}, "credentials": {"env": "E", "header": "x-a"}},
        "is set twice",
    ),
    "the credential itself": ({"credentials": "hidden"}, "cannot contain a credential"),
    "the credential as a name": ({"credentials": {"env": "sk-hidden"}}, "not a valid name of an environment variable"),
    "no variable": ({"credentials": {"header": "A"}}, "Field required"),
    "two ways": ({"credentials": {"env": "E", "header": "A", "query": "key"}}, "in a header or in the address"),
    "a prefix of two lines": ({"credentials": {"env": "E", "prefix": "a\n"}}, "not plain text"),
    "a header without name": ({"credentials": {"env": "E", "header": "a b"}}, "is not a valid name"),
    "extra, no json": ({"extra": {"a": 1}}, "`extra` needs requests in JSON"),
    "extra, a secret": ({"send": "json", "extra": {"a": [{"api-key": "hidden"}]}}, "`extra` contains 'api-key'"),
    "extra, no number": ({"send": "json", "extra": {"a": float("nan")}}, "a value that JSON cannot hold"),
    "extra, no JSON": ({"send": "json", "extra": {"a": datetime(2020, 1, 1)}}, "a value that JSON cannot hold"),
    "field is taken": ({"send": "json", "extra": {"image": 1}}, "the image cannot be placed"),
    "field past the end": ({"send": "json", "field": "a.1.b"}, "the image cannot be placed"),
    "field through text": ({"send": "json", "field": "a.b", "extra": {"a": "b"}}, "the image cannot be placed"),
    "field everywhere": ({"send": "json", "field": "a.*"}, "the image cannot be placed"),
    "field is empty": ({"field": ""}, "`field` is empty"),
    "path": ({"labels": "a..b"}, "is not a valid path"),
    "no path": ({"scores": ""}, "is not a valid path"),
    "names, blank": ({"names": {"a": " "}}, "has an empty name"),
    "names, none": ({"names": {"a": []}}, "at least 1 item"),
    "names, numbers": ({"names": {"a": [1]}}, "valid string"),
    "names, no file": ({"names": "no/such/file.csv"}, "cannot be read: No such file"),
    **{
        f"{key} {value}": ({key: value}, "Input should be")
        for key, value in [
            *(("top", 0), ("top", 101), ("top", 2.5), ("rate", 0.0), ("rate", float("inf")), ("rate", -1.0)),
            *(("parallel", 0), ("timeout", 0.0), ("timeout", float("nan")), ("attempts", 0), ("backoff", -1.0)),
            *(("most_wait", 1e9), ("send", "xml")),
        ]
    },
    "unknown key": ({"token": "a"}, "Extra inputs"),
}


@pytest.mark.parametrize("name", BAD)
def test_invalid_specs_are_rejected(name):
    given, what = BAD[name]
    with pytest.raises(ValidationError) as error:
        Remote.model_validate({"url": "http://a/"} | given)
    ours = [found for found in error.value.errors() if found["type"] == "reference"]
    assert any(what in found["msg"] for found in error.value.errors()), error.value.errors()
    for one in ours:
        assert "hidden" not in one["msg"] + one["ctx"]["accepted"]


def test_a_remote_is_written_and_read_again():
    given = {
        "url": "https://example.org/v1?version=2",
        "send": "json",
        "field": "inputs.0.image",
        "extra": {"model": "v3"},
        "headers": {"X-Version": "2"},
        "credentials": {"env": "E", "query": "key"},
        "names": {"cat": "Kitty", "dog": ["Dog", "puppy"]},
    }
    remote = Remote.model_validate(given)
    assert Remote.model_validate(remote.model_dump(mode="json")) == remote
    assert Remote.model_validate("http://a/").credentials is None
    bearer = Remote.model_validate({"url": "http://a/", "credentials": {"env": "E"}})
    assert Remote.model_validate(bearer.model_dump(mode="json")) == bearer
    assert (bearer.credentials.header, bearer.credentials.prefix) == ("Authorization", "Bearer ")


NAMES = {
    "names.yaml": "cat: Kitty\n5: [ Dog, puppy]\n",
    "names.json": '{"cat": "Kitty",\t"5": ["Dog", "puppy"]}',
    "names.csv": "cat, Kitty\n\n5,Dog,puppy ,\n",
}


@pytest.mark.parametrize("file", NAMES)
def test_own_names_from_a_file(tmp_path, file):
    (tmp_path / file).write_text(NAMES[file])
    remote = Remote.model_validate({"url": "http://a/", "names": str(tmp_path / file)})
    assert set(remote.names) == {"cat", "5"}
    labels = label_set("cifar10")
    check_names(remote.names, labels)
    assert [names_of_label(remote.names, labels, label) for label in (3, 5, 8)] == [
        ("kitty",),
        ("dog", "puppy"),
        ("ship",),
    ]
    assert names_of_label(remote.names, label_set("imagenet"), 1) == ("goldfish", "carassius auratus")


def test_a_label_named_like_a_number():
    remote = Remote.model_validate({"url": "http://a/", "names": {"1": "one"}})
    labels = label_set(["1", "0"])
    assert [names_of_label(remote.names, labels, label) for label in (0, 1)] == [("one",), ("0",)]


@pytest.mark.parametrize(
    ("file", "text", "what"),
    [
        ("a.csv", "cat\n", "line 1"),
        ("a.csv", 'cat,"a\n', "is not valid CSV"),
        ("a.csv", "cat,a\ncat,b\n", "'cat' occurs twice"),
        ("a.json", '{"cat": "a", "cat": "b"}', "'cat' occurs twice"),
        ("a.json", "{", "is not valid JSON"),
        ("a.json", "[" * 100_000, "is not valid JSON"),
        ("a.yaml", "- cat\n", "is not a mapping"),
        ("a.yaml", "cat: a\ncat: b\n", "is repeated"),
        ("a.yaml", "cat: ]\n", "this is not YAML"),
        ("a.yaml", b"\xff", "is not valid YAML"),
        ("a", b"\xff", "/a is not valid YAML"),
    ],
)
def test_invalid_files_of_names(tmp_path, file, text, what):
    (tmp_path / file).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ValidationError, match=what):
        Remote.model_validate({"url": "http://a/", "names": str(tmp_path / file)})


@pytest.mark.parametrize(("names", "what"), [({"cta": "a"}, "'cta'"), ({"cat": "a", "3": "b"}, "one label twice")])
def test_names_for_unknown_labels(names, what):
    remote = Remote.model_validate({"url": "http://a/", "names": names})
    with pytest.raises(StudyError, match=what):
        check_names(remote.names, label_set("cifar10"))


def test_specs_and_credentials_load_neither_an_http_client_nor_torch():
    code = (
        "import sys; from study.models.services import credentials, service_spec; "
        "print(sorted({'httpx', 'tenacity', 'torch'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.strip() == "[]"
