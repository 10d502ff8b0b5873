"""The library transformers (Hugging Face), which has models of images and text.

A model comes from a repository of the hub or from a folder. A spec names a repository with its revision, which
determines weights, tokenizer and preprocessing. A folder must contain config.json, the files of a tokenizer,
preprocessor_config.json and model.safetensors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from study.errors import StudyError
from study.models.classifier import Preprocessing
from study.models.towers import Towers

_INTERPOLATIONS = {0: "nearest", 2: "bilinear", 3: "bicubic"}
"""The names of the interpolations that `resized` has, by Pillow's constant."""
_BICUBIC = 3
_FOLDER = "folder"


def networks() -> None:
    import transformers  # noqa: F401 - only whether it is installed


def tags(network: str) -> Sequence[str] | None:
    return (_FOLDER,) if Path(network).is_dir() else None


class TransformersEncoder(nn.Module):
    """The image encoder of a model of images and text, with its projection, but without the text encoder."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.vision_model = model.vision_model
        self.projection = getattr(model, "visual_projection", None) or nn.Identity()

    def forward(self, images: Tensor) -> Tensor:
        found: Tensor = self.projection(self.vision_model(pixel_values=images).pooler_output)
        return found


def build(network: str, tag: str | None, arguments: Mapping[str, Any], device: str = "cpu") -> Towers:
    from transformers import AutoConfig, AutoModel, AutoTokenizer

    where: dict[str, Any] = {} if tag in (None, _FOLDER) else {"revision": tag}
    config = AutoConfig.from_pretrained(network, **where, **arguments)
    if tag is None:
        with torch.device(device):
            model = AutoModel.from_config(config)
    else:
        model = AutoModel.from_pretrained(network, config=config, **where)
    tokenizer = AutoTokenizer.from_pretrained(network, **where)
    longest = config.text_config.max_position_embeddings

    def encode(texts: Sequence[str]) -> Tensor:
        tokens = tokenizer(list(texts), padding="max_length", max_length=longest, truncation=True, return_tensors="pt")
        given = {key: tokens[key] for key in ("input_ids", "attention_mask") if key in tokens}
        found: Any = model.get_text_features(**given)
        return found if isinstance(found, Tensor) else found.pooler_output  # version 5 returns an object

    def scale() -> tuple[float, float]:
        bias = getattr(model, "logit_bias", None)
        return float(model.logit_scale.exp()), 0.0 if bias is None else float(bias)

    # Without a projection, embeddings are as wide as the encoder.
    width = getattr(config, "projection_dim", None) or config.vision_config.hidden_size
    return Towers(model, TransformersEncoder(model), encode, int(width), scale, _preprocessing(network, where))


def _preprocessing(network: str, where: Mapping[str, Any]) -> Preprocessing:
    """Return the preprocessing in the file preprocessor_config.json.

    Raises StudyError if the file asks for an interpolation that this program does not have.
    """
    from transformers.image_processing_base import ImageProcessingMixin

    record = ImageProcessingMixin.get_image_processor_dict(network, **where)[0]
    size = record.get("crop_size") or record["size"]
    side = size if isinstance(size, int) else size.get("height") or size["shortest_edge"]
    resample = _BICUBIC if record.get("resample") is None else record["resample"]
    if resample not in _INTERPOLATIONS:
        raise StudyError(
            f"transformers:{network} resizes images with Pillow's interpolation {resample} (`resample` in its "
            "preprocessor_config.json), which this program does not have",
            accepted=" or ".join(f"{number} ({name})" for number, name in _INTERPOLATIONS.items()),
            todo="choose another model; or copy the repository to a folder, and change `resample` there",
        )
    return Preprocessing(side, _INTERPOLATIONS[resample], tuple(record["image_mean"]), tuple(record["image_std"]))
