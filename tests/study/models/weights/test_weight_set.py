"""A set of weights: read with one network, swapped in place, part of the digest, and refused with one message."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file

from study.errors import StudyError
from study.models import Model, loading
from study.models.swapped_weights import swapped, weight_set_of
from study.models.weights import weight_set

NETWORK = "timm:test_resnet"


def loaded(weights, *, fold=True, **more):
    given = {"network": NETWORK, "weights": weights, "size": 48, **more}
    return loading.load("m", Model.model_validate(given), fold=fold)


@pytest.fixture(scope="module")
def random():
    """Three classifiers of one network, with batch norms that do something."""
    found = []
    for seed in range(3):
        one = loaded(f"random:{seed}", fold=False)
        drawn = torch.Generator().manual_seed(seed)
        for name, tensor in one.network.state_dict().items():
            if name.endswith("running_var"):
                tensor.copy_(torch.rand(tensor.shape, generator=drawn) + 0.5)
            if name.endswith("running_mean"):
                tensor.copy_(torch.randn(tensor.shape, generator=drawn))
        found.append(one)
    return found


@pytest.fixture
def folder(tmp_path, random):
    for number, one in enumerate(random):
        state = {name: tensor.contiguous() for name, tensor in one.network.state_dict().items()}
        save_file(state, tmp_path / f"w{number}.safetensors")
    return tmp_path


@pytest.fixture
def images():
    return 255 * torch.rand(2, 3, 48, 48, generator=torch.Generator().manual_seed(3))


def of_set(folder, pattern="*.safetensors", **more):
    return loaded({"set": f"{folder}/{pattern}"}, role="source", **more)


def test_each_of_the_weights_is_the_network_of_its_file(folder, random, images):
    """Bit for bit the logits of a network that is not folded, also where folding is asked for; then the mean again."""
    source = of_set(folder)
    network, before = source.network, source(images)
    held = weight_set_of("m", source)
    assert len(held) == 3
    for number, state in enumerate(held.states):
        with swapped(source, held, lambda state=state: state):
            assert torch.equal(source(images), random[number](images))
            alone = loaded(f"file:{folder}/w{number}.safetensors", fold=False)
            assert torch.equal(source(images), alone(images))
    assert source.network is network
    assert source.folded == 0
    assert torch.equal(source(images), before)
    assert not source._forward_pre_hooks


def test_mean_and_deviation(folder, random):
    source = of_set(folder)
    held = weight_set_of("m", source)
    for name, tensor in source.network.state_dict().items():
        each = torch.stack([one.network.state_dict()[name].double() for one in random])
        wanted = each.mean(0) if tensor.is_floating_point() else each[0]
        torch.testing.assert_close(tensor.double(), wanted, rtol=1e-6, atol=1e-7)
        if name in held.parameters:
            torch.testing.assert_close(held.deviation[name].double(), each.std(0, correction=0), rtol=1e-5, atol=1e-7)
    assert "bn1.weight" in held.deviation
    assert "bn1.running_var" not in held.deviation


def test_equal_weights_are_the_model_of_their_file(folder, images):
    """Two copies of one file: the mean is the weights, to the bit."""
    (folder / "copy.safetensors").write_bytes((folder / "w1.safetensors").read_bytes())
    source = of_set(folder, "[cw][o1]*.safetensors")
    assert len(weight_set_of("m", source)) == 2
    assert torch.equal(source(images), loaded(f"file:{folder}/w1.safetensors", fold=False)(images))


def test_the_digest_covers_all_files(folder):
    first = of_set(folder).digest
    assert of_set(folder).digest == first
    (folder / "w2.safetensors").rename(folder / "w9.safetensors")
    assert of_set(folder).digest == first
    (folder / "w9.safetensors").rename(folder / "w00.safetensors")
    moved = of_set(folder).digest
    assert moved != first
    (folder / "w00.safetensors").unlink()
    fewer = of_set(folder).digest
    assert fewer not in (first, moved)
    # The mean of these two is that of the two before.
    state = weight_set_of("m", of_set(folder)).mean
    save_file({name: one.contiguous() for name, one in state.items()}, folder / "w5.safetensors")
    assert of_set(folder).digest not in (first, moved, fewer)
    assert of_set(folder).describe()["weights"] == 3


def test_missing_and_unfitting_files(folder, tmp_path):
    for pattern, message in (
        ("none/*.safetensors", r"no file matches .*none/\*\.safetensors, so the set of weights is empty"),
        ("w0.*", r"only .*w0\.safetensors matches .*w0\.\*, but a set of weights has two or more"),
    ):
        with pytest.raises(StudyError, match=message):
            of_set(folder, pattern)
    save_file({"conv1.weight": torch.zeros(3, 3)}, folder / "w7.safetensors")
    with pytest.raises(StudyError, match=r"the weights in .*w7\.safetensors do not fit timm:test_resnet"):
        of_set(folder)
    (folder / "w7.safetensors").write_bytes(b"nothing")
    with pytest.raises(StudyError, match=r"w7\.safetensors"):
        of_set(folder)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"weights": {"set": "a/*"}}, "it must have `role: source`"),
        ({"weights": {"set": "a/*", "more": 1}, "role": "source"}, "string"),
        ({"weights": {"set": "a/*"}, "role": "source", "sha256": "0" * 64}, "sha256 needs a weights file"),
        ({"weights": "set:", "role": "source"}, "does not name weights"),
        ({"weights": "random:1", "role": "target"}, "source"),
        ({"weights": "random:1", "role": "source", "transform": [{"jpeg": 75}]}, "cannot be a source only"),
    ],
)
def test_what_a_spec_cannot_say(keys, message):
    with pytest.raises(ValueError, match=message):
        Model.model_validate({"network": NETWORK, **keys})


def test_a_model_without_a_set_has_none():
    with pytest.raises(StudyError, match="'m' has no set of weights"):
        weight_set_of("m", loaded("random:1"))


def test_the_files_are_in_the_order_of_their_names(folder):
    found = weight_set.files(f"{folder}/*.safetensors")
    assert [path.name for path in found] == ["w0.safetensors", "w1.safetensors", "w2.safetensors"]
