"""The files with weights of open_clip on the Hugging Face hub."""

from __future__ import annotations

from study.distribution import installing
from study.errors import StudyError, first_line

_USUAL = "open_clip_pytorch_model.bin"


def hub_files(network: str, tag: str) -> tuple[str, tuple[str, ...]] | None:
    """Return the repository of weights on the hub, and the possible names of their file, the preferred name first.

    None if the weights are not on the hub. Raises StudyError if open_clip cannot be imported.
    """
    try:
        import open_clip
    except ImportError as error:
        raise StudyError(
            f"the networks of open_clip cannot be imported: {first_line(error)}", todo=installing("clip")
        ) from None
    found = open_clip.get_pretrained_cfg(network, tag).get("hf_hub")
    if not isinstance(found, str):
        return None
    # As in open_clip, the text is `<repository>/`, or `<repository>/<file>` for a file with another name.
    repository, _, filename = found.rpartition("/")
    if not filename or not repository.count("/"):
        return found.rstrip("/"), (_safer(_USUAL), _USUAL)
    return repository, tuple(dict.fromkeys((_safer(filename), filename)))


def _safer(filename: str) -> str:
    if filename == _USUAL:
        return "open_clip_model.safetensors"
    stem, _, suffix = filename.rpartition(".")
    return f"{stem}.safetensors" if suffix in ("bin", "pth") else filename
