"""Find the file with a model's weights, and its place on this machine. Nothing is downloaded or loaded.

The result follows the rules of each zoo: it has the address (URL), or the repository and its file, and the folder that
the zoo itself uses when it loads the weights. TORCH_HOME sets torch.hub's folder. HF_HOME and HF_HUB_CACHE set the
cache of the Hugging Face hub.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from study.errors import StudyError, first_line, names
from study.models.reference import Model
from study.models.weights.packages import package_file

Kind = Literal["url", "hub", "local", "package"]

_DIGITS = re.compile(r"-([0-9a-f]{8,64})\.[^-]+$")
DATE = re.compile(r"(?:19|20)\d\d(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])")
"""A pattern for a date. The eight digits of a date in a file's name look like the beginning of a digest."""
_WHOLE = re.compile(r"[0-9a-f]{64}")
_BIN = "pytorch_model.bin"
_TRANSFORMERS = ("model.safetensors", "model.safetensors.index.json", _BIN, f"{_BIN}.index.json")
"""The names that transformers tries for a file of weights or for the index of a divided file, in its order."""
_SAFER = {_BIN: "model.safetensors", "open_clip_pytorch_model.bin": "open_clip_model.safetensors"}


@dataclass(frozen=True)
class WeightsFile:
    """One file of weights.

    `kind` says where the file comes from: an address (`url`), the Hugging Face hub, the user's disk (`local`) or a
    package. `cached` says whether the file is on this machine. `path` is the place of the file. A file with a `url` has
    a path even before it is downloaded. The path is None if a file of the hub is not in the cache, or if a package is
    not installed. `sha256` is the known beginning of the file's SHA-256 in hexadecimal digits.

    For the hub, `alternatives` are the names to try if the repository has no file `filename`. `custom` says whether
    timm reads the file with a special function of the network.
    """

    kind: Kind
    cached: bool
    url: str | None = None
    repo: str | None = None
    filename: str | None = None
    alternatives: tuple[str, ...] = ()
    revision: str | None = None
    path: Path | None = None
    sha256: str | None = None
    custom: bool = False

    @property
    def label(self) -> str:
        """The name of the file in messages: its address, its repository and name, or its path."""
        return self.url or (f"{self.repo}/{self.filename}" if self.repo else str(self.path or self.kind))


def weights_file(model: Model) -> WeightsFile | None:
    """Return the file of a model's weights.

    None for random weights, weights that the user's code loads, sets of files, services, models that only add a
    transform to another model, folders of transformers, and weights that only open_clip itself can find. If the file is
    divided, it is the index of its parts, which is `cached` only if all parts are. Raises StudyError if the zoo does
    not have the network or the weights.
    """
    if model.network is None:
        return None
    if model.weights_kind == "file":
        path = Path(model.weights_value)
        return WeightsFile("local", path.is_file(), path=path, sha256=_lower(model.sha256))
    if model.weights_kind == "package":
        return _of_package(model.weights_value, model.sha256)
    finders = {"timm": _of_timm, "torchvision": _of_torchvision, "pretrainedmodels": _of_pretrainedmodels}
    finders |= {"open_clip": _of_open_clip, "transformers": _of_transformers}
    if model.weights_kind != "zoo" or model.zoo not in finders:
        return None
    return finders[model.zoo](model.name if model.is_zero_shot else model.bare_name, model.tag)


def parts_of(index: Path) -> tuple[str, ...]:
    """Return the names of the parts that the index of a divided file names; empty if `index` is the file itself.

    Raises StudyError if the index is damaged.
    """
    if not index.name.endswith(".index.json"):
        return ()
    try:
        return tuple(sorted(set(json.loads(index.read_text())["weight_map"].values())))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise StudyError(
            f"{index} is damaged: it names no parts of the weights", todo="remove it, and fetch the weights again"
        ) from error


def verify(file: WeightsFile, path: Path, todo: str) -> None:
    """Raise StudyError, with the advice `todo`, if the SHA-256 of the file at `path` differs from that of `file`.

    Only the known digits of `file.sha256` are compared. If no digits are known, nothing is checked.
    """
    if file.sha256 is None:
        return
    with path.open("rb") as opened:
        found = hashlib.file_digest(opened, "sha256").hexdigest()
    if not found.startswith(file.sha256):
        raise StudyError(
            f"{path} is damaged, or is not the file {file.label}",
            accepted=f"a file whose SHA-256 begins with {file.sha256}; found {found}",
            todo=todo,
        )


def state(model: Model) -> str:
    """Return the state of a model's weights as a word for tables.

    The words are `cached`, `not cached`, `package`, `not installed`, `file`, `no file`, `set`, `random`, `own` (loaded
    by the user's code), `service`, `transform` (another model of the spec has the weights), `folder` (of transformers),
    `not checked` (only open_clip itself can find the weights), and `none` (a network without weights).
    """
    if model.network is None:
        return "service" if model.remote is not None else "transform"
    if model.weights_kind in ("random", "own", "set"):
        return model.weights_kind
    file = weights_file(model)
    if file is None and model.zoo == "transformers":
        return "none" if model.tag is None else "folder"
    if file is None:
        return "not checked" if model.zoo == "open_clip" and model.tag is not None else "none"
    words = {"package": ("package", "not installed"), "local": ("file", "no file")}
    return words.get(file.kind, ("cached", "not cached"))[0 if file.cached else 1]


def of_timm(full: str) -> WeightsFile | None:
    """Return the file that timm loads for `full`, a network with a tag such as `resnet50.a1_in1k`.

    None if timm has no weights. As in timm, the hub is preferred to the address (URL), and a safetensors file is
    preferred to a pickle. If TIMM_USE_OLD_CACHE is set, a file that was downloaded from the address is preferred to the
    hub.
    """
    config = _timm_config(full)
    repo, url = config.hf_hub_id, config.url
    if isinstance(url, str) and url and (not repo or _old_cache(url)):
        return _of_url(url, custom=bool(config.custom_load))
    if not repo:
        return None
    repo, _, revision = repo.partition("@")
    asked = config.hf_hub_filename or _BIN
    custom = config.custom_load == "hf" and config.hf_hub_filename is not None
    choice = (asked,) if custom or not asked.endswith(".bin") else (_safer(asked), asked)
    return _of_hub(repo, choice, revision or None, custom=custom)


def timm_overlay(file: WeightsFile | None) -> dict[str, Any] | None:
    """Return the `pretrained_cfg_overlay` that makes timm.create_model load a cached file of the hub while offline.

    None if the file is not cached. Also None if the file has an address (URL), because timm finds such a file offline
    without an overlay.
    """
    if file is None or file.kind != "hub" or file.path is None:
        return None
    return {"file": str(file.path), "custom_load": file.custom}


def _lower(digits: str | None) -> str | None:
    return None if digits is None else digits.lower()


def _of_package(package: str, pinned: str | None) -> WeightsFile:
    try:
        path = package_file(package)
    except StudyError:
        return WeightsFile("package", cached=False, sha256=_lower(pinned))
    return WeightsFile("package", cached=True, path=path, sha256=_lower(pinned))


def _of_url(url: str, *, custom: bool = False) -> WeightsFile:
    import torch

    name = Path(urlsplit(url).path).name
    path = Path(torch.hub.get_dir()) / "checkpoints" / name
    digits = _DIGITS.search(name)
    written = digits[1] if digits and not DATE.fullmatch(digits[1]) else None
    return WeightsFile("url", path.is_file(), url=url, path=path, sha256=written, custom=custom)


def _of_hub(repo: str, choice: tuple[str, ...], revision: str | None, *, custom: bool) -> WeightsFile:
    from huggingface_hub import errors, try_to_load_from_cache

    for place, filename in enumerate(choice):
        try:
            found = try_to_load_from_cache(repo, filename, revision=revision)
        except errors.HFValidationError as error:
            raise StudyError(f"'{repo}' is not a repository of the Hugging Face hub: {first_line(error)}") from None
        if isinstance(found, str):
            # In the cache, the name of a large file is its SHA-256, and `found` is a link to this file.
            stored = Path(found).resolve().name
            path, digits = Path(found), stored if _WHOLE.fullmatch(stored) else None
            return WeightsFile(
                *("hub", True, None, repo, filename),
                alternatives=choice[place + 1 :],
                revision=revision,
                path=path,
                sha256=digits,
                custom=custom,
            )
    return WeightsFile("hub", False, None, repo, choice[0], choice[1:], revision, custom=custom)


def _of_timm(network: str, tag: str | None) -> WeightsFile | None:
    return of_timm(f"{network}.{tag}" if tag else network)


def _of_open_clip(network: str, tag: str | None) -> WeightsFile | None:
    """Return the file on the hub; None for weights that only open_clip itself can download."""
    from study.models.weights import open_clip_hub

    found = None if tag is None else open_clip_hub.hub_files(network, tag)
    return None if found is None else _of_hub(*found, None, custom=False)


def _of_transformers(network: str, tag: str | None) -> WeightsFile | None:
    """Return the file on the hub, or the index of a divided file; None for a folder on this machine."""
    if tag is None or Path(network).is_dir():
        return None
    file = _of_hub(network, _TRANSFORMERS, tag, custom=False)
    parts = () if file.path is None else parts_of(file.path)
    missing = any(not _of_hub(network, (part,), tag, custom=False).cached for part in parts)
    return replace(file, cached=False) if missing else file


def _of_torchvision(network: str, tag: str | None) -> WeightsFile | None:
    from torchvision import models

    known = models.list_models(module=models)
    if network not in known:
        raise StudyError(f"torchvision has no network named '{network}'", accepted=names(known, network))
    tags = {entry.name: entry for entry in models.get_model_weights(network)}
    return None if tag is None else _of_url(_one_of(tags, tag, f"torchvision:{network}").url)


def _of_pretrainedmodels(network: str, tag: str | None) -> WeightsFile | None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import pretrainedmodels

    known = pretrainedmodels.pretrained_settings
    if network not in known:
        raise StudyError(f"pretrainedmodels has no network named '{network}'", accepted=names(known, network))
    return None if tag is None else _of_url(_one_of(known[network], tag, f"pretrainedmodels:{network}")["url"])


def _timm_config(full: str) -> Any:
    import timm
    from timm.models import PretrainedCfg, get_pretrained_cfg, is_model_pretrained

    network, _, tag = full.partition(".")
    if not timm.is_model(network):
        raise StudyError(f"timm has no network named '{network}'", accepted=names(timm.list_models(), network))
    if tag and not is_model_pretrained(full):
        tags = [one.partition(".")[2] for one in timm.list_pretrained(f"{network}.*")]
        raise StudyError(f"timm:{network} has no weights named '{tag}'", accepted=names(tags, tag))
    # Without a tag, timm uses the first weights of the network.
    return get_pretrained_cfg(full) or PretrainedCfg()


def _old_cache(url: str) -> bool:
    from timm.models._hub import check_cached_file

    return int(os.environ.get("TIMM_USE_OLD_CACHE", "0")) > 0 and bool(check_cached_file(url))


def _safer(filename: str) -> str:
    return _SAFER.get(filename, filename.removesuffix(".bin") + ".safetensors")


def _one_of(tags: dict[str, Any], tag: str, network: str) -> Any:
    if tag not in tags:
        raise StudyError(f"{network} has no weights named '{tag}'", accepted=names(tags, tag))
    return tags[tag]
