"""The files with weights of open_clip on the Hugging Face hub."""

from __future__ import annotations

HUB_FILES = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
"""The possible names of the weights file in a repository, the preferred name first."""


def hub_repository(network: str, tag: str) -> str | None:
    """Return the repository of the weights on the hub; None if the weights are not on the hub."""
    import open_clip

    found = open_clip.get_pretrained_cfg(network, tag).get("hf_hub")
    return found.rstrip("/") if isinstance(found, str) else None
