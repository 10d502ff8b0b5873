"""Hundreds of malformed specs, made by hypothesis: whatever is in the file, one message that says what and where."""

from __future__ import annotations

import copy
import re
import subprocess
import sys

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from study.errors import StudyError
from study.spec.loading import load, resolve
from study.spec.yaml_document import override, parse
from tests.conftest import ROOT, TINY

WHOLE = yaml.safe_load(TINY) | {
    "images": {"sample": "foolbox", "size": 48, "keep": ["a"], "count": 10, "targets": {"rank": 2, "by": ["a"]}},
    "models": {
        "a": {"network": "timm:test_resnet", "weights": "random:1", "size": 48, "mean": [0.5] * 3, "std": [0.5] * 3},
        "b": "torchvision:resnet18/IMAGENET1K_V1",
        "behind": {"model": "a", "transform": [{"jpeg": 75}, {"noise": 2}]},
        "box": {"remote": {"url": "http://127.0.0.1:9/", "send": "json", "extra": {"top": 5}, "headers": {"X": "1"},
                           "credentials": {"env": "NAME"}, "names": {"n01440764": ["tench"]}}},
    },
    "attacks": {
        "mi": {"epsilon": 16, "steps": 2, "checkpoints": [1, 2]},
        "fg": {"budget": {"rmsd": "matched", "to": "optimization", "by": "mean"}},
        "sweep": {"preset": "fgsm", "epsilon": {"from": 1, "to": 4, "by": 1}},
        "all": {"preset": "mi+di+ti+sgm", "diversity": {"low": 0.9}, "kernel": {"size": 5}, "weights": {"a": 2}},
    },
    "experiments": {
        "x": {"attacks": ["mi", "fg"], "sources": ["a", ["a", "b"]], "goal": ["untargeted", "targeted"],
              "targets": ["a", "box"], "seeds": [1, 2]},
        "y": {"attacks": "sweep", "sources": {"each": ["a", "b"]}, "published": "liu2017:1A"},
    },
    "numerics": {"batch": 2, "threads": 1, "compile": False},
    "run": {"shard": 2, "actors": "auto", "flush_seconds": 0.5},
}  # fmt: skip
"""Every section and most parts, to be broken somewhere."""


ODD = [
    None, True, False, 0, -1, 1.5, -0.0, 10**400, -(10**30), 2**63, 1e308, float("inf"), float("nan"), "", " ",
    "a", "none",
    "${", "${}", "\x85", "\u202e", "ä" * 200, "x" * 5000, "../..", "a+b", "a.b", "1e400", "0x_", "[", "a: b",
    "n01440764",
    [], [[]], [None], [[["a"]]], ["a", "a"], {}, {"": 1}, {"a": {}}, {"from": 2, "to": 1, "by": 0},
    {"from": 1}, ["a"] * 50,
    {"each": []}, {"rank": 0}, {"to": "mi", "rmsd": "matched"}, {"network": "mi", "remote": "x"}, {"env": "x y"},
]  # fmt: skip
NAMES = ["", " ", "a/b", ".", "x" * 101, "ä", "-", "a b", "study", "<<", "null", "0", "${X}", "\u0000"[:0] or "épsilon"]

odd = st.one_of(
    st.sampled_from(ODD),
    st.integers(),
    st.floats(),
    st.text(max_size=8),
    st.recursive(
        st.one_of(st.none(), st.booleans(), st.integers(), st.text(max_size=3)),
        lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=3), inner, max_size=3)),
        max_leaves=6,
    ),
)


def places(data, place=()):
    """Every place in a document, the whole of it aside."""
    entries = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    for key, value in entries:
        yield (*place, key)
        yield from places(value, (*place, key))


PLACES = list(places(WHOLE))


def broken(data, place, how, value):
    """A document with something else at one place, or something more or less there."""
    data = copy.deepcopy(data)
    inner = data
    for key in place[:-1]:
        if not isinstance(inner, dict | list) or (isinstance(inner, list) and key >= len(inner)):
            return data
        inner = inner.get(key) if isinstance(inner, dict) else inner[key]
    key = place[-1]
    if (
        not isinstance(inner, dict | list)
        or (isinstance(inner, dict) and key not in inner)
        or (isinstance(inner, list) and (not isinstance(key, int) or key >= len(inner)))
    ):
        return data
    if how == "replace":
        inner[key] = value
    elif how == "remove":
        del inner[key]
    elif how == "add" and isinstance(inner, dict):
        inner[value if isinstance(value, str | int) else "extra"] = value
    elif how == "rename" and isinstance(inner, dict):
        inner[value if isinstance(value, str) else f"{key}z"] = inner.pop(key)
    return data


changes = st.lists(
    st.tuples(
        st.sampled_from(PLACES),
        st.sampled_from(["replace", "replace", "remove", "add", "rename"]),
        st.one_of(odd, st.sampled_from(NAMES)),
    ),
    min_size=1,
    max_size=3,
)


def cuts(text):
    """Texts that are no longer what they were: cut, doubled, stirred, with marks that YAML gives a meaning."""
    marks = ["\t", "\x00", "\ufeff", "{", "}", "[", "]", ": ", "- ", "&a ", "*a", "!!",
    "!!python/name:os.system ", "|", ">",
             "'", '"', "#", "%", "@", "`", "\n", "\r", "---\n", "...\n", "<<: *a", "? ", "\x1b[31m",
             "\ud800"[:0] or "\x07",
             "!!binary x", "!!set {a}", "!!omap [a: 1]", "2020-01-01", "2020-99-99", "0o9", "1_0", "1:99:99",
             ".inf"]  # fmt: skip
    return st.tuples(
        st.integers(0, len(text)),
        st.integers(0, 40),
        st.lists(st.one_of(st.sampled_from(marks), st.text(max_size=3)), max_size=3),
    ).map(lambda drawn: text[: drawn[0]] + "".join(drawn[2]) + text[drawn[0] + drawn[1] :])


def told(text, name="spec.yaml"):
    """Resolves, or fails with a message that says where; both are well, and nothing else is."""
    error = refused(lambda: resolve(parse(text, name, environment={})))
    if error is None:
        return
    said = str(error)
    assert error.what.strip()
    assert error.where, f"no place: {said}"
    assert name in error.where
    assert "Traceback" not in said
    assert "pydantic" not in said.lower()
    assert len(said) < 12_000
    assert error.status == 2
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f\x85]", said), repr(said)


def refused(do):
    """The StudyError that `do` raises, if any."""
    try:
        do()
    except StudyError as error:
        return error
    return None


def quickly(examples):
    return settings(
        max_examples=examples,
        derandomize=True,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )


@quickly(300)
@given(changes)
def test_broken_somewhere(drawn):
    data = WHOLE
    for place, how, value in drawn:
        data = broken(data, place, how, value)
    told(yaml.dump(data, Dumper=yaml.SafeDumper, allow_unicode=True, sort_keys=False))


@quickly(200)
@given(cuts(yaml.safe_dump(WHOLE, sort_keys=False)))
def test_broken_text(text):
    told(text)


@quickly(50)
@given(st.sampled_from(PLACES), odd)
def test_broken_by_set(place, value):
    """--set with any key and value."""
    document = parse(yaml.safe_dump(WHOLE), "spec.yaml", environment={})

    def set_it():
        override(document, f"{'.'.join(map(str, place))}={yaml.safe_dump(value, allow_unicode=True)}")
        resolve(document)

    error = refused(set_it)
    assert error is None or (error.where and ("--set" in error.where or "spec.yaml" in error.where)), str(error)


@quickly(50)
@given(st.binary(max_size=200))
def test_any_bytes(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("bytes") / "spec.yaml"
    path.write_bytes(content)
    error = refused(lambda: load(path))
    assert error is not None
    assert str(path) in error.where


LAUGHS = "\n".join([f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9) if n else 'lol'}]" for n in range(9)])
NASTY = {
    "an alias to itself": (b"study: &a [*a]\n", ["line 1"]),
    "an alias to a mapping around it": (b"study: x\nmodels: &m {a: *m}\n", ["line 2"]),
    "an alias of nothing": (b"study: *nothing\n", ["line 1"]),
    "billion laughs": (LAUGHS.encode(), ["line"]),
    "deep lists": (b"study: " + b"[" * 5000 + b"]" * 5000, ["spec.yaml"]),
    "deep mappings": (b"study: " + b"{a: " * 5000 + b"}" * 5000, ["spec.yaml"]),
    "deep blocks": ("".join(f"{' ' * n}k:\n" for n in range(2000)).encode(), ["spec.yaml"]),
    "deep within a limit": (b"study: " + b"[" * 300 + b"]" * 300, ["spec.yaml"]),
    "UTF-16": ("study: x\n".encode("utf-16"), ["UTF-8"]),
    "UTF-32": ("study: x\n".encode("utf-32-be"), ["spec.yaml"]),
    "latin-1": ("study: é\n".encode("latin-1"), ["UTF-8", "line 1"]),
    "a tab": (b"study: x\nimages:\n\tsample: foolbox\n", ["line 3"]),
    "NUL": (b"study: x\x00y\n", ["line 1"]),
    "NUL in quotes": (b'study: "x\\0y"\n', ["line 1"]),
    "two documents": (b"study: x\n---\nstudy: y\n", ["line 2"]),
    "a key that is a list": (b"? [a]\n: b\n", ["line 1"]),
    "a key twice": (b"study: x\nseed: 1\nstudy: y\n", ["line 3", "line 1"]),
    "a number of a million digits": (b"study: x\nseed: " + b"9" * 1_000_000 + b"\n", ["line 2"]),
    "a date": (b"study: 2020-01-01\n", ["line 1"]),
    "a day that there is not": (b"study: 2020-02-31\n", ["line 1"]),
    "a base-60 number": (b"study: x\nseed: 1:00:99\n", ["spec.yaml"]),
    "an anchor twice": (b"study: &a x\nseed: &a y\n", ["spec.yaml"]),
    "only a comment": (b"# nothing\n", ["spec.yaml"]),
    "text": (b"hello\n", ["spec.yaml"]),
    "a colon too many": (b"study: a: b\n", ["line 1"]),
    "an escape sequence": (b'study: "\\e[31mred"\n', ["line 1"]),
    "a circle of matched budgets": (
        yaml.safe_dump(WHOLE | {"attacks": {
            one: {"preset": "fgsm", "budget": {"rmsd": "matched", "to": other}} for one, other in ("ab", "bc", "ca")
        }, "experiments": {"x": {"attacks": ["a"], "sources": "each"}}}).encode(), ["cycle", "line"],
    ),
    "an attack matched to itself": (
        yaml.safe_dump(WHOLE | {"attacks": {"fg": {"budget": {"rmsd": "matched", "to": "fg"}}},
                                "experiments": {"x": {"attacks": ["fg"], "sources": "each"}}}).encode(),
                                ["cycle", "line"],
    ),
    "models of each other": (
        yaml.safe_dump(WHOLE | {"models": {"a": {"model": "b", "transform": {"jpeg": 5}},
                                           "b": {"model": "a", "transform": {"jpeg": 5}}}}).encode(), ["line"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", NASTY)
def test_nasty(tmp_path, case):
    content, expected = NASTY[case]
    path = tmp_path / "spec.yaml"
    path.write_bytes(content)
    error = refused(lambda: load(path))
    assert error is not None
    said = str(error)
    assert error.where, said
    assert len(said) < 5000
    for part in expected:
        assert part in said, said


def test_a_byte_order_mark_is_no_part_of_a_key(tmp_path):
    path = tmp_path / "spec.yaml"
    path.write_bytes(b"\xef\xbb\xbf" + TINY.lstrip().encode())
    assert load(path).spec.study == "tiny"
    path.write_bytes(TINY.replace("\n", "\r\n").encode())
    assert load(path).spec.study == "tiny"


@pytest.mark.parametrize("case", ["deep lists", "latin-1"])
def test_through_the_command(tmp_path, case):
    """The real one, with its exit status and its two streams."""
    path = tmp_path / "spec.yaml"
    path.write_bytes(NASTY[case][0])
    words = [sys.executable, "-m", "cli", "plan", str(path)]
    done = subprocess.run(words, capture_output=True, text=True, cwd=ROOT, timeout=60, check=False)
    assert done.returncode == 2, done
    assert done.stdout == ""
    assert done.stderr.startswith("error: ")
    assert "  where:    " in done.stderr
    assert str(path) in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("case", ["an alias to itself", "billion laughs", "NUL", "a date"])
def test_through_the_door(door, tmp_path, case):
    path = tmp_path / "spec.yaml"
    path.write_bytes(NASTY[case][0])
    status, printed, error = door("plan", path)
    assert (status, printed) == (2, "")
    assert error.startswith("error: ")
    assert "  where:    " in error
    assert str(path) in error
