"""Zero-shot classifiers: an image encoder whose embeddings are compared with the embeddings of the labels' prompts.

CLIP and similar models (Radford et al. 2021, arXiv:2103.00020) assign an image to the label whose prompts have the
nearest embedding. Embeddings of text are computed once, when the model is loaded.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from study.distribution import installing
from study.errors import StudyError, first_line, names
from study.images.labels import LabelSet
from study.models.classifier import Preprocessing
from study.models.reference import Model
from study.models.towers import Towers
from study.models.weights import state_dict
from study.models.zoos import open_clip, transformers
from study.reproducibility.hashing import digest

PROMPTS = ("a photo of a {}.",)
"""The default of `prompts` in a spec: the prompt of Radford et al. 2021, section 3.1.4."""

ENCODER = "image"
"""The name of the image encoder among the layers of a `ZeroShot`. The output of this layer is the embedding."""

_TEXTS = 256
"""The number of texts in one forward pass of the text encoder."""


class Library(Protocol):
    """A library of models of images and text: the functions of its module in `study.models.zoos`."""

    def networks(self) -> Sequence[str] | None:
        """Return the names of the library's networks; None if a spec may name any repository or folder."""

    def tags(self, network: str) -> Sequence[str] | None:
        """Return the names of a network's weights; None if a spec may name any revision of the repository."""

    def build(self, network: str, tag: str | None, arguments: Mapping[str, Any], device: str = "cpu") -> Towers:
        """Build a model with the weights `tag` (None: without weights). On the device `meta`, this needs no memory."""


LIBRARIES: Mapping[str, Library] = {"open_clip": open_clip, "transformers": transformers}


class ZeroShot(nn.Module):
    """A network that maps normalised images (N, 3, H, W) to logits (N, number of labels).

    A logit is `scale` times the cosine of the image's embedding and the label's embedding, plus `bias`. The buffer
    `text` has the embeddings of the labels, float32 (number of labels, width), each of length 1. The state dict does
    not contain `text`, because the last bits of these embeddings depend on the machine. Instead, the model's digest
    covers the weights, words and prompts from which these embeddings are computed.
    """

    text: Tensor

    def __init__(self, image: nn.Module, text: Tensor, scale: float, bias: float, preprocessing: Preprocessing) -> None:
        super().__init__()
        self.image = image
        self.register_buffer("text", text, persistent=False)
        self.scale, self.bias = scale, bias
        self.recorded = preprocessing

    def embed(self, images: Tensor) -> Tensor:
        """Return the embeddings of normalised images, (N, width), each of length 1."""
        found: Tensor = self.image(images)
        return nn.functional.normalize(found, dim=-1)

    def forward(self, images: Tensor) -> Tensor:
        return self.scale * self.embed(images) @ self.text.T + self.bias


def check(name: str, model: Model) -> None:
    """Raise StudyError if the library is not installed, or the network or the weights of `model` do not exist."""
    library = _library(name, model)
    known = library.networks()
    if known is not None and model.name not in known:
        raise StudyError(
            f"{model.zoo} has no network named '{model.name}'",
            accepted=names(known, model.name),
            todo=f"correct the network of model '{name}'",
        )
    if model.weights_kind == "file" and not Path(model.weights_value).is_file():
        raise StudyError(f"the weights file {model.weights_value} does not exist", todo="correct `weights: file:…`")
    if model.weights_kind != "zoo":
        return
    tags = library.tags(model.name)
    if model.tag is None or (tags is not None and model.tag not in tags):
        what = "names no weights" if model.tag is None else f"has no weights named '{model.tag}'"
        raise StudyError(
            f"{model.network} {what}",
            accepted=names([f"{model.network}/{tag}" for tag in tags], f"{model.network}/{model.tag}")
            if tags is not None
            else "weights: zoo:<revision>, a commit of the network's repository",
            todo=f"name the weights of model '{name}': the default may change",
        )


def _library(name: str, model: Model) -> Library:
    library = LIBRARIES[model.zoo]
    try:
        library.networks()
    except ImportError as error:
        raise StudyError(
            f"the networks of {model.zoo} cannot be imported: {first_line(error)}",
            accepted="an environment with open_clip and transformers",
            todo=f"{installing('clip')}, or remove model '{name}'",
        ) from None
    return library


def build(model: Model, labels: LabelSet, called: str) -> tuple[ZeroShot, str]:
    """Return the zero-shot classifier of `model` for `labels`, with weights, and its identity for the digest.

    The identity is a hash of the network's name and arguments, the labels' words, the prompts and the weights. Raises
    StudyError if the tensors of a weights file do not fit. `called` names the model in messages.
    """
    towers = LIBRARIES[model.zoo].build(model.name, model.tag, model.arguments)
    if model.weights_kind == "file":
        tensors = state_dict.read(Path(model.weights_value), sha256=model.sha256)
        state_dict.load(towers.whole, tensors, called=called, origin=model.weights_value)
    towers.whole.eval().requires_grad_(False)
    prompts = model.prompts or PROMPTS
    words = [labels.words(index)[0] for index in range(len(labels))]
    text = label_embeddings(towers.text, words, prompts)
    scale, bias = towers.scale()
    hashed = hashlib.sha256()
    state_dict.hash_into(hashed.update, towers.whole.state_dict())
    identity = digest("zero-shot", model.network, model.arguments, words, prompts, hashed.hexdigest())
    return ZeroShot(towers.image, text, scale, bias, towers.preprocessing), identity


def outline(model: Model, labels: LabelSet) -> ZeroShot:
    """Return the classifier without weights, and with zeros as embeddings of the labels, to estimate its memory."""
    towers = LIBRARIES[model.zoo].build(model.name, None, model.arguments, "meta")
    text = torch.zeros(len(labels), towers.width)
    return ZeroShot(towers.image, text, 1.0, 0.0, towers.preprocessing)


def label_embeddings(encode: Callable[[Sequence[str]], Tensor], words: Sequence[str], prompts: Sequence[str]) -> Tensor:
    """Return the embeddings of the labels with these `words`, (number of labels, width), each of length 1.

    The embedding of each prompt is normalised to length 1. A label's embedding is the mean over its prompts, normalised
    again.
    """
    texts = [prompt.replace("{}", word) for word in words for prompt in prompts]
    with torch.no_grad():
        parts = [encode(texts[start : start + _TEXTS]).float() for start in range(0, len(texts), _TEXTS)]
    every = nn.functional.normalize(torch.cat(parts), dim=-1).view(len(words), len(prompts), -1)
    return nn.functional.normalize(every.mean(1), dim=-1)
