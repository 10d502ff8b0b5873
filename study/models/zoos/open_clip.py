"""The library open_clip (github.com/mlfoundations/open_clip), which has models of images and text.

A model is named by its architecture and the tag of its weights.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from study.models.classifier import Preprocessing
from study.models.towers import Towers


def networks() -> Sequence[str]:
    import open_clip

    return list(open_clip.list_models())


def tags(network: str) -> Sequence[str]:
    import open_clip

    return list(open_clip.list_pretrained_tags_by_model(network))


class OpenClipEncoder(nn.Module):
    """The image encoder of a CLIP model."""

    def __init__(self, visual: nn.Module) -> None:
        super().__init__()
        self.visual = visual

    def forward(self, images: Tensor) -> Tensor:
        found: Tensor = self.visual(images)
        return found


def build(network: str, tag: str | None, arguments: Mapping[str, Any], device: str = "cpu") -> Towers:
    import open_clip

    # Without these options, open_clip would load weights of the text or image encoder from other libraries' hubs.
    model = open_clip.create_model(
        network,
        pretrained=tag,
        device=device,
        pretrained_image=False,
        pretrained_text=False,
        require_pretrained=tag is not None,
        **arguments,
    )
    given = arguments.get("text_cfg") or {}
    tokenizer = open_clip.get_tokenizer(network, context_length=given.get("context_length"))
    record = model.visual.preprocess_cfg
    size = record["size"]

    def encode(texts: Sequence[str]) -> Tensor:
        found: Tensor = model.encode_text(tokenizer(list(texts)))
        return found

    def scale() -> tuple[float, float]:
        bias = getattr(model, "logit_bias", None)
        return float(model.logit_scale.exp()), 0.0 if bias is None else float(bias)

    return Towers(
        whole=model,
        image=OpenClipEncoder(model.visual),
        text=encode,
        width=int(arguments.get("embed_dim") or open_clip.get_model_config(network)["embed_dim"]),
        scale=scale,
        preprocessing=Preprocessing(
            size=size if isinstance(size, int) else int(size[-1]),
            interpolation=record.get("interpolation") or "bicubic",
            mean=tuple(record["mean"]),
            std=tuple(record["std"]),
        ),
    )
