"""Files of weights: what is found in them, what they are called, and what is refused."""

from __future__ import annotations

import hashlib
import pickle
from collections import OrderedDict

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torchvision import models as torchvision_models

from study.errors import StudyError
from study.models.weights import state_dict as weights


def network(seed=0) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(OrderedDict(conv=nn.Conv2d(3, 4, 3), norm=nn.BatchNorm2d(4), last=nn.Linear(4, 2)))


@pytest.fixture
def state():
    return network().state_dict()


def loaded(state) -> dict:
    other = network(1)
    weights.load(other, state, called="net", origin="here")
    return other.state_dict()


def same(found, state) -> bool:
    return found.keys() == state.keys() and all(torch.equal(found[name], state[name]) for name in state)


@pytest.mark.parametrize("suffix", [".safetensors", ".pth", ".pt", ".th", ".bin"])
def test_every_kind_of_file(tmp_path, state, suffix):
    path = tmp_path / f"weights{suffix}"
    (save_file if suffix == ".safetensors" else torch.save)(state, path)
    assert same(loaded(weights.read(path)), state)


@pytest.mark.parametrize("key", ["state_dict", "model", "state_dict_ema", "model_state", "model_state_dict"])
def test_a_training_checkpoint(tmp_path, state, key):
    path = tmp_path / "checkpoint.pth"
    torch.save({"epoch": 3, "optimizer": {"lr": 0.1}, key: state}, path)
    assert same(loaded(weights.read(path)), state)


def test_the_weights_come_before_their_average(tmp_path, state):
    path = tmp_path / "checkpoint.pth"
    torch.save({"state_dict_ema": network(5).state_dict(), "state_dict": state}, path)
    assert same(loaded(weights.read(path)), state)


@pytest.mark.parametrize("prefix", ["module.", "model.", "_orig_mod.", "network.", "_orig_mod.module."])
def test_a_prefix_of_all_names_is_taken_off(state, prefix):
    assert same(loaded({prefix + name: value for name, value in state.items()}), state)


def test_a_prefix_of_some_names_is_left(state):
    mixed = {("module." if "conv" in name else "") + name: value for name, value in state.items()}
    with pytest.raises(StudyError, match=r"2 tensors are missing \(first: conv.bias\); 2 tensors are unknown"):
        loaded(mixed)


def test_a_network_may_have_such_names_itself(state):
    wrapped = nn.Sequential(OrderedDict(model=network(1)))
    given = {f"module.model.{name}": value for name, value in state.items()}
    weights.load(wrapped, given, called="net", origin="here")
    assert same(wrapped.get_submodule("model").state_dict(), state)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_floats_become_float32(state, dtype):
    found = loaded({name: value.to(dtype) if value.is_floating_point() else value for name, value in state.items()})
    assert found["conv.weight"].dtype == torch.float32
    assert torch.equal(found["conv.weight"], state["conv.weight"].to(dtype).float())


def test_whole_numbers_are_no_weights(state):
    with pytest.raises(StudyError, match=r"1 tensor is of torch.int8 in place of floats \(first: conv.weight\)"):
        loaded(state | {"conv.weight": torch.zeros(4, 3, 3, 3, dtype=torch.int8)})


def test_files_from_before_the_counters_of_batches(state):
    assert same(loaded({name: value for name, value in state.items() if "num_batches" not in name}), state)


def test_old_names_of_densenets():
    """torchvision's published files have them still; its own loader renames them."""
    network = torchvision_models.densenet121()
    state = network.state_dict()
    old = {}
    for name, value in state.items():
        for kind in ("norm1", "norm2", "conv1", "conv2"):
            if "denselayer" in name:
                name = name.replace(f".{kind}.", f".{kind[:4]}.{kind[4]}.")  # noqa: PLW2901
        old[name] = value
    assert old.keys() != state.keys()
    other = torchvision_models.densenet121()
    weights.load(other, old, called="densenet121", origin="here")
    assert same(other.state_dict(), state)


def test_a_pin(tmp_path, state):
    path = tmp_path / "weights.pth"
    torch.save(state, path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    for pin in (digest, digest[:8], digest[:20].upper()):
        assert same(loaded(weights.read(path, sha256=pin)), state)
    wrong = "0" * 8 if digest[0] != "0" else "f" * 8
    with pytest.raises(StudyError, match="another SHA-256 than the spec requires") as caught:
        weights.read(path, sha256=wrong)
    assert digest in str(caught.value)
    assert wrong in str(caught.value)


@pytest.mark.parametrize("suffix", [".pth", ".th"])
def test_digits_in_a_name(tmp_path, state, suffix):
    plain = tmp_path / "plain.pth"
    torch.save(state, plain)
    digest = hashlib.sha256(plain.read_bytes()).hexdigest()
    good = plain.rename(tmp_path / f"resnet20-{digest[:8]}{suffix}")
    assert same(loaded(weights.read(good)), state)
    bad = tmp_path / f"resnet20-{digest[1:9]}{suffix}"
    bad.write_bytes(good.read_bytes())
    with pytest.raises(StudyError, match="damaged or renamed"):
        weights.read(bad)
    assert same(loaded(weights.read(bad, sha256=digest)), state)


def test_a_damaged_download(tmp_path, state):
    plain = tmp_path / "plain.pth"
    torch.save(state, plain)
    whole = plain.read_bytes()
    half = tmp_path / f"resnet20-{hashlib.sha256(whole).hexdigest()[:8]}.pth"
    half.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(StudyError, match="damaged or renamed"):
        weights.read(half)


def test_a_date_in_a_name_is_no_digest(tmp_path, state):
    path = tmp_path / "mine-20240131.pth"
    torch.save(state, path)
    assert same(loaded(weights.read(path)), state)


class _Evil:
    def __reduce__(self):
        return print, ("executed",)


def test_nothing_in_a_file_is_executed(tmp_path, capsys):
    path = tmp_path / "evil.pth"
    torch.save({"a": _Evil()}, path)
    with pytest.raises(StudyError, match="not a plain state dict"):
        weights.read(path)
    path.write_bytes(pickle.dumps(_Evil()))
    with pytest.raises(StudyError):
        weights.read(path)
    assert "executed" not in capsys.readouterr().out


@pytest.mark.parametrize(("content", "message"), [
    ({"epoch": 3, "best": 0.5}, "holds no state dict .* a mapping with epoch, best"),
    ([torch.zeros(2)], "holds no state dict .* a list"),
])  # fmt: skip
def test_other_contents(tmp_path, content, message):
    path = tmp_path / "other.pth"
    torch.save(content, path)
    with pytest.raises(StudyError, match=message):
        weights.read(path)


@pytest.mark.parametrize("name", ["noise.pth", "noise.safetensors"])
def test_no_weights_at_all(tmp_path, name):
    path = tmp_path / name
    with pytest.raises(StudyError, match="does not exist"):
        weights.read(path)
    path.write_bytes(b"nothing")
    with pytest.raises(StudyError):
        weights.read(path)
