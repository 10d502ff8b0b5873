"""The files on the hub that hold weights of open_clip."""

from __future__ import annotations

HUB_FILES = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
"""The names of a file of weights in a repository, the first choice first."""


def hub_repository(network: str, tag: str) -> str | None:
    """The repository of weights on the hub; None if they are elsewhere."""
    import open_clip

    found = open_clip.get_pretrained_cfg(network, tag).get("hf_hub")
    return found.rstrip("/") if isinstance(found, str) else None
