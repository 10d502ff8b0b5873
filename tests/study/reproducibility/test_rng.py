"""Keyed randomness: the published generator, and streams that depend on their key alone."""

from __future__ import annotations

import ctypes
import shutil
import subprocess

import numpy as np
import pytest
import torch

from study.reproducibility import hashing, philox_kernel, rng
from study.reproducibility.hashing import digest
from study.reproducibility.rng import Streams, draws, philox

ONES = (1 << 64) - 1
KNOWN = {
    # The vectors of the Random123 distribution for philox4x64-10: counter, key, output.
    "zero": ((0, 0, 0, 0), (0, 0), (0x16554D9ECA36314C, 0xDB20FE9D672D0FDC, 0xD7E772CEE186176B, 0x7E68B68AEC7BA23B)),
    "ones": (
        (ONES,) * 4,
        (ONES,) * 2,
        (0x87B092C3013FE90B, 0x438C3C67BE8D0224, 0x9CC7D7C69CD777B6, 0xA09CAEBF594F0BA0),
    ),
    "pi": (
        (0x243F6A8885A308D3, 0x13198A2E03707344, 0xA4093822299F31D0, 0x082EFA98EC4E6C89),
        (0x452821E638D01377, 0xBE5466CF34E90C6C),
        (0xA528F45403E61D95, 0x38C72DBD566E9788, 0xA5A1610E72FD18B5, 0x57BD43B5E52B7FE6),
    ),
}


def philox4x64(counter, key):
    """Philox4x64-10 as Salmon et al. 2011 define it, written out."""
    mask = (1 << 64) - 1
    c, k = list(counter), list(key)
    for step in range(10):
        if step:
            k = [(k[0] + 0x9E3779B97F4A7C15) & mask, (k[1] + 0xBB67AE8584CAA73B) & mask]
        first, second = 0xD2E7470EE14C6C93 * c[0], 0xCA5A826395121157 * c[2]
        c = [(second >> 64) ^ c[1] ^ k[0], second & mask, (first >> 64) ^ c[3] ^ k[1], first & mask]
    return c


def bits(keys):
    """Unsigned keys as a tensor of their bits."""
    return torch.from_numpy(np.array(keys, dtype=np.uint64).view(np.int64))


def test_draws_are_philox():
    key = np.frombuffer(bytes.fromhex(digest("a", 1))[:16], dtype=np.uint64)
    # numpy counts from one: its counter is incremented before each block.
    expected = philox4x64((1, 0, 0, 0), [int(word) for word in key]) + philox4x64(
        (2, 0, 0, 0), [int(word) for word in key]
    )
    assert draws(8, "a", 1).tolist() == expected


@pytest.mark.parametrize("name", KNOWN)
def test_published_vectors(name):
    """Written out, and in tensor operations, which count from one as numpy does."""
    counter, key, expected = KNOWN[name]
    assert tuple(philox4x64(counter, key)) == expected
    before = np.array([(counter[0] - 1) & ONES, *counter[1:]], dtype=np.uint64)
    found = philox(bits([key]), before, 4)
    assert tuple(int(word) & ONES for word in found[0].tolist()) == expected


def test_tensors_draw_what_numpy_draws():
    """Several keys, many blocks, a count that ends inside a block."""
    keys = np.random.default_rng(0).integers(0, ONES, (3, 2), dtype=np.uint64, endpoint=True)
    counter = np.array([0, 7, 3, 2], dtype=np.uint64)
    found = philox(bits(keys), counter, 1001).numpy().view(np.uint64)
    expected = [np.random.Philox(key=key, counter=counter).random_raw(1001) for key in keys]
    assert np.array_equal(found, np.stack(expected))


@pytest.mark.parametrize("kind", ["uniform", "normal"])
def test_streams_are_the_same_on_every_device(kind, monkeypatch):
    """What another device than a CPU would draw, drawn here: the same floats, bit by bit."""
    streams = Streams(("craft",), ["a", "b"])
    here = getattr(streams, kind)((3, 5, 7), "cpu", "gaussian", 4, 2)
    monkeypatch.setattr(rng, "is_host", lambda device: False)
    there = getattr(streams, kind)((3, 5, 7), "cpu", "gaussian", 4, 2)
    assert here.dtype == there.dtype == torch.float32
    assert torch.equal(here, there)


def test_words_are_the_bits_of_integers():
    streams = Streams(("craft",), ["a", "b"])
    words = streams.words(5, "cpu", "admix", 4, 2).numpy()
    assert np.array_equal(words.view(np.uint64), streams.integers(5, "admix", 4, 2))
    keys = [("tie", 1), ("tie", 2)]
    expected = np.stack([draws(9, *key) for key in keys])
    assert np.array_equal(rng.draws_on("cpu", 9, keys).numpy().view(np.uint64), expected)


@pytest.mark.skipif(shutil.which("g++") is None, reason="there is no C++ compiler")
def test_the_source_of_the_gpu_kernel_draws_what_numpy_draws(tmp_path):
    """The source that a GPU runs, built for the host; how torch starts it there is seen on a GPU only."""
    code = tmp_path / "philox.cpp"
    code.write_text(
        "static unsigned long long __umul64hi(unsigned long long a, unsigned long long b) "
        "{ return (unsigned __int128)a * b >> 64; }\n" + philox_kernel.SOURCE + 'extern "C" void block(long long *w) '
        "{ philox4x64(w[0], w[1], w[2], w[3], w[4], w[5], w[6], w[7], w[8], w[9], w[10]); }\n"
    )
    subprocess.run(["g++", "-O1", "-shared", "-fPIC", "-o", tmp_path / "philox.so", code], check=True)
    block = ctypes.CDLL(str(tmp_path / "philox.so")).block
    for key, counter in (([1, ONES], [5, 7, ONES, 2**63]), ([2**63 + 1, 2], [0, 0, 1, 9])):
        words = (np.array(one, dtype=np.uint64) for one in (key, counter))
        expected = np.random.Philox(**dict(zip(("key", "counter"), words, strict=True))).random_raw(8)
        for number in (1, 2):
            words = np.array([number, *key, *counter, 0, 0, 0, 0], dtype=np.uint64)
            block(words.ctypes.data_as(ctypes.c_void_p))
            assert words[7:].tolist() == expected[4 * number - 4 : 4 * number].tolist()
    assert philox_kernel.kernel().kernel_name == "philox4x64", "torch finds its name in the source"


def test_streams_are_distributed_as_they_say():
    streams = Streams(("craft",), ["a"])
    normal = streams.normal((400_000,), "cpu", "gaussian")[0].double()
    assert abs(normal.mean()) < 0.01
    assert abs(normal.std() - 1) < 0.005
    assert abs((normal.abs() < 1.959964).double().mean() - 0.95) < 0.002
    assert abs((normal**4).mean() - 3) < 0.06
    uniform = streams.uniform((400_000,), "cpu", "start")[0].double()
    assert uniform.abs().max() < 1
    assert abs(uniform.var() - 1 / 3) < 0.002
    assert abs(np.corrcoef(uniform[1:], uniform[:-1])[0, 1]) < 0.01


def test_a_stream_is_its_image_purpose_step_and_copy():
    def drawn(images, purpose="gaussian", step=0, copy=0):
        return Streams(("craft",), images).normal((64,), "cpu", purpose, step, copy)

    assert torch.equal(drawn(["a", "b"])[1], drawn(["b"])[0])
    others = [drawn(["c"]), drawn(["b"], "variance"), drawn(["b"], step=1), drawn(["b"], copy=1)]
    assert not any(torch.equal(drawn(["b"]), other) for other in others)


def test_another_key_is_another_stream():
    assert not np.array_equal(draws(4, "a"), draws(4, "b"))
    assert np.array_equal(draws(8, "a")[:4], draws(4, "a"))


@pytest.mark.parametrize(("left", "right"), [
    ({"drop_rate": 0, "in_chans": 3}, {"in_chans": 3, "drop_rate": 0.0}),
    ({"a": {"x": 1, "y": [2.0, -0.0]}}, {"a": {"y": [2, 0], "x": 1.0}}),
    (float("nan"), float("nan")),
])  # fmt: skip
def test_equal_data_have_one_form(left, right):
    assert hashing.same(left, right)
    assert repr(hashing.canonical(left)) == repr(hashing.canonical(right))


@pytest.mark.parametrize(("left", "right"), [
    ({"a": True}, {"a": 1}),
    ({"a": "1"}, {"a": 1}),
    ({"a": 0.5}, {"a": 0.25}),
    ({"a": [1, 2]}, {"a": [2, 1]}),
    ({"a": None}, {}),
])  # fmt: skip
def test_other_data_have_another_form(left, right):
    assert not hashing.same(left, right)
