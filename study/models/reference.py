"""The model in a spec: its network, weights and input.

A spec writes a model as the short name of a paper's model (`resnet152`), as `zoo:network`, `zoo:network/weights` or
`package:name`, or as a mapping with one of the keys `network`, `model` and `remote`. This module imports no zoo and
loads no weights.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, WithJsonSchema, field_validator, model_validator
from pydantic_core import PydanticCustomError

from study.defences.transforms import Transforms
from study.errors import StudyError, names
from study.images.labels import read_names
from study.models.catalogue import LEFT_OUT, PACKAGES, SHORT_NAMES
from study.models.robust_models import ROBUST
from study.models.services.service_spec import Remote
from study.reproducibility.hashing import digest as hashed
from study.spec.frozen import Frozen, rejected
from study.spec.shorthand import TEXT, OneItem, Shorthand, also

ZERO_SHOT = ("open_clip", "transformers")
"""Libraries with models of images and text, such as CLIP. These models classify images by means of text prompts."""

ZOOS = ("torchvision", "timm", "pretrainedmodels", "study", "python", *ZERO_SHOT)
WEIGHTS = ("zoo", "file", "set", "package", "random", "own")
ORIGINS = ("network", "model", "remote")

Interpolation = Literal["nearest", "bilinear", "bicubic"]
Channel = Annotated[float, Field(allow_inf_nan=False)]
Classes = Annotated[tuple[str, ...], Field(strict=False, min_length=2)]
Prompts = Annotated[tuple[str, ...], Field(strict=False, min_length=1), OneItem()]
Channels = Annotated[tuple[Channel, ...], Field(strict=False, min_length=1, max_length=3)]


_SET_KEY = "set"
_SET = Shorthand(
    lambda given: f"{_SET_KEY}:{given[_SET_KEY]}" if isinstance(given, dict) and given.keys() == {_SET_KEY} else given,
    ({"type": "object", "properties": {_SET_KEY: TEXT}, "required": [_SET_KEY], "additionalProperties": False},),
)
"""A shorthand that turns `weights: {set: folder/*.safetensors}` of a spec into `set:folder/*.safetensors`."""

_NETWORK = {"anyOf": [{"enum": list(SHORT_NAMES)}, TEXT]}
"""The JSON schema of `network`. It lists the short names, so that editors can suggest them."""


class Model(Frozen):
    """One model of a spec. It has exactly one of the keys `network`, `model` and `remote`:

    - `network`: `zoo:network`, a network of torchvision, timm, pretrainedmodels or study (CIFAR-10 ResNets, MNIST
      networks); `open_clip:<name>` or `transformers:<name>`, a model of images and text, which classifies by prompts;
      or `python:<module or file>:<function>`, the user's own code, which runs only with --allow-code;
    - `model`: another model of the spec, with a `transform` in front of it;
    - `remote`: a service that answers over HTTP, which can only be a target.

    `weights` is `zoo:<tag>`, `file:<path>` (a state dict, .safetensors or torch), `package:<name>`, `random:<seed>`,
    `own` or a set. With `own`, the default for `python:`, the user's function loads the weights, or leaves them random.
    A set `{set: "<folder>/*.safetensors"}` has two or more files. The components `drawn_weights` and `gaussian_weights`
    derive the weights of each attack step from the set. Other attacks use the mean of the set. For `file:` and
    `package:`, `sha256` is the required SHA-256 of the weights file, or at least its first eight hexadecimal digits.

    A model with `role: source` is only a source. It is never a target and makes no predictions, so it has no influence
    on the selection of images. A model with a set of weights must have this role.

    These keys describe the input of the network. Their defaults are the zoo's values for the network: `size` in pixels,
    `interpolation`, `mean` and `std` (for images scaled to 0..1; with `range: 255`, to 0..255), `channels` (RGB or
    BGR), and `range` (the largest value of a channel before `mean` and `std` are applied: 1 or 255).

    `classes` names the outputs in their order. It is needed if this order differs from the order of the image set's
    labels. `prompts` are the texts with which a model of images and text describes a label. In a prompt, `{}` is
    replaced by the first word of the label (default: "a photo of a {}."). Such a model assigns an image to the label
    whose prompts have the nearest embedding.

    A `transform` changes an image before the model sees it, or lets the model vote on several versions of the image. A
    model with a transform can only be a target. `family` names the family of the model's architecture, such as
    `resnet`. It is needed if no network's name tells the family: for the user's own code, and for a service.
    """

    model_config = ConfigDict(json_schema_extra=also(_NETWORK))

    network: Annotated[str, WithJsonSchema(_NETWORK)] | None = None
    model: str | None = None
    remote: Remote | None = None
    weights: Annotated[str | None, _SET] = None
    sha256: Annotated[str, Field(pattern=r"^[0-9a-fA-F]{8,64}$")] | None = None
    arguments: dict[str, Any] = Field(default_factory=dict)
    size: Annotated[int, Field(ge=8, le=4096)] | None = None
    interpolation: Interpolation | None = None
    mean: Channels | None = None
    std: Channels | None = None
    channels: Literal["RGB", "BGR"] | None = None
    range: Literal[1, 255] | None = None
    classes: Classes | None = None
    prompts: Prompts | None = None
    transform: Transforms | None = None
    role: Literal["source"] | None = None
    family: Annotated[str, Field(min_length=1, max_length=60)] | None = None

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, given: Any) -> Any:
        if isinstance(given, str):
            given = {"network": given}
        if not isinstance(given, dict) or not isinstance(given.get("network"), str):
            return given
        given = dict(given)
        if given["network"] in ROBUST and given.get("weights") is None:
            raise rejected(
                f"the weights of {given['network']} are not in a zoo: its authors publish them in a file",
                "weights: file:<path>, the file that RobustBench distributes; or weights: random:<seed>",
            )
        if given["network"] in SHORT_NAMES:
            short = SHORT_NAMES[given["network"]]
            given = {**short, **given, "network": short["network"]}
            if "weights" in given and given["weights"] != short.get("weights"):
                given["network"] = given["network"].partition("/")[0]
        prefix, _, rest = given["network"].partition(":")
        if prefix == "package":
            if rest not in PACKAGES:
                raise PydanticCustomError(
                    "reference",
                    "'{name}' is not a known package with weights",
                    {"name": rest, "accepted": names(PACKAGES, rest)},
                )
            given["network"] = PACKAGES[rest]
            given.setdefault("weights", f"package:{rest}")
        elif prefix in ("torchvision", "pretrainedmodels", "open_clip") and "/" in rest:
            network, _, tag = rest.partition("/")
            given["network"] = f"{prefix}:{network}"
            given.setdefault("weights", f"zoo:{tag}")
        elif prefix == "python":
            given.setdefault("weights", "own")
        elif prefix == "transformers" and Path(rest).is_dir():
            given.setdefault("weights", "zoo:folder")
        return given

    @field_validator("classes", mode="before", json_schema_input_type=Classes | str | None)
    @classmethod
    def _classes_from_file(cls, given: Any) -> Any:
        if not isinstance(given, str):
            return given
        try:
            return read_names(Path(given))
        except StudyError as error:
            raise rejected(error.what, error.accepted or "a list of names, or a text file with names") from None

    @model_validator(mode="after")
    def _one_origin(self) -> Model:
        origins = [key for key in ORIGINS if getattr(self, key) is not None]
        if len(origins) != 1:
            found = " and ".join(origins) or "none of them"
            raise rejected(
                f"a model needs exactly one of network, model and remote; this one has {found}", ", ".join(ORIGINS)
            )
        if self.network is None:
            surplus = [key for key in _OF_NETWORKS if getattr(self, key) not in (None, {})]
            if surplus:
                raise rejected(
                    f"'{surplus[0]}' needs a model with the key `network`; this model has `{origins[0]}`",
                    f"the keys {origins[0]}, transform and family",
                )
            if self.model is not None and self.transform is None:
                raise rejected("a model with the key `model` needs a transform", "transform: {…}")
            return self
        self._check_network(self.network)
        return self

    def _check_network(self, network: str) -> None:
        if network in LEFT_OUT:
            raise rejected(f"no weights of {network} are available: {LEFT_OUT[network]}", names(SHORT_NAMES, network))
        if self.zoo not in ZOOS or not self.name:
            raise PydanticCustomError(
                "reference",
                "'{given}' is not a network of a known zoo",
                {
                    "given": network,
                    "accepted": names(SHORT_NAMES, network)
                    if ":" not in network
                    else ", ".join(f"{zoo}:<network>" for zoo in ZOOS) + ", package:<name>",
                },
            )
        if self.zoo == "python" and not re.fullmatch(r".+:[A-Za-z_]\w*", self.name):
            raise rejected(
                f"'{network}' does not name a function", "python:<module>:<function>, python:<path>.py:<function>"
            )
        self._check_weights(network)
        self._check_prompts(network)
        if self.role == "source" and self.transform is not None:
            raise rejected(
                "a model with a transform has no gradients, so it cannot be a source only",
                "either `role: source` or a transform",
            )
        if self.has_set and self.role != "source":
            raise rejected(
                "a model with several weight files makes no predictions: it must have `role: source`",
                "`role: source` in addition to these files, or a single file: `weights: file:<path>`",
            )
        named = sorted(self.arguments.keys() & _NAMES_OF_WEIGHTS) if self.zoo != "python" else []
        if named:
            raise rejected(
                f"the argument '{named[0]}' is not allowed: it would load weights that the spec does not name",
                "weights: zoo:<tag>, file:<path>, package:<name> or random:<seed>",
            )
        if any(value == 0 for value in self.std or ()):
            raise PydanticCustomError("reference", "std contains 0, and pixels are divided by std")
        counts = {len(numbers) for numbers in (self.mean, self.std) if numbers is not None}
        if counts - {1, 3} or len(counts) > 1:
            raise PydanticCustomError(
                "reference", "mean and std need one number for each channel: one or three numbers"
            )

    def _check_prompts(self, network: str) -> None:
        if self.prompts is not None and not self.is_zero_shot:
            raise rejected(f"{network} has no text encoder, so it takes no prompts", "open_clip:…, transformers:…")
        if any("{}" not in prompt for prompt in self.prompts or ()):
            raise rejected("a prompt lacks {}, the place of the label", '"a photo of a {}."')
        if self.is_zero_shot and self.classes is not None:
            raise rejected(
                "a model with prompts has one output for each label, so `classes` does not apply to it",
                "a model with prompts and without `classes`",
            )
        if self.is_zero_shot and self.weights_kind not in ("zoo", "file", "random"):
            raise rejected(f"{network} cannot have `weights: {self.weights}`", "zoo:<tag>, file:<path>, random:<seed>")

    def _check_weights(self, network: str) -> None:
        kind, _, value = (self.weights or "zoo:").partition(":")
        if self.weights is not None:
            alone = kind == "own" and self.zoo == "python"
            if kind not in WEIGHTS or not (value or alone) or (kind == "random" and not value.isdecimal()):
                raise rejected(
                    f"'{self.weights}' does not name weights",
                    "zoo:<tag>, file:<path>, {set: <pattern>}, package:<name>, random:<seed>, or own with python:…",
                )
            if kind == "package" and PACKAGES.get(value) != network:
                raise rejected(f"the package '{value}' contains no weights of {network}", names(PACKAGES, value))
        if self.sha256 is not None and kind not in ("file", "package"):
            raise rejected("sha256 needs a weights file, but this model has none, or several", "weights: file:<path>")

    @property
    def zoo(self) -> str:
        return (self.network or "").partition(":")[0]

    @property
    def is_zero_shot(self) -> bool:
        """Whether the model classifies by prompts."""
        return self.zoo in ZERO_SHOT

    @property
    def name(self) -> str:
        return (self.network or "").partition(":")[2]

    @property
    def bare_name(self) -> str:
        """The network's name in its zoo, without timm's tag."""
        return self.name.partition(".")[0]

    @property
    def weights_kind(self) -> str:
        """The part of `weights` before the colon: zoo, file, set, package, random or own."""
        return (self.weights or "zoo:").partition(":")[0]

    @property
    def weights_value(self) -> str:
        """The part of `weights` after the colon."""
        return (self.weights or "zoo:").partition(":")[2]

    @property
    def has_set(self) -> bool:
        """Whether the weights are a set of several files."""
        return self.weights_kind == "set"

    @property
    def tag(self) -> str | None:
        """The name of the zoo's weights; None if the spec does not name weights of the zoo."""
        in_name = "" if self.is_zero_shot else self.name.partition(".")[2]
        return (self.weights_value or in_name or None) if self.weights_kind == "zoo" else None

    @property
    def without_transform(self) -> Model:
        """The same model without its transform."""
        return self.model_copy(update={"transform": None})

    def digest_of(self, digest: str, stages: str | None = None) -> str:
        """Return the digest of this model: the `digest` of its network or service, combined with its transform.

        `stages` is the digest of the networks in the transform; None if the transform has no networks.
        """
        if self.transform is None:
            return digest
        return hashed(digest, self.transform.identity(), *([] if stages is None else [stages]))

    def describe(self, of_source: Mapping[str, Any], stages: str | None = None) -> dict[str, Any]:
        """Return what a run records about this model: `of_source`, with the transform and its digest if there is one.

        `of_source` is the record of the model's network or service. `stages` is as in `digest_of`.
        """
        if self.transform is None:
            return dict(of_source)
        shown = {"transform": self.transform.model_dump(mode="json")}
        return {**of_source, **shown, "digest": self.digest_of(of_source["digest"], stages)}

    @property
    def source_only(self) -> bool:
        """Whether the model is only a source: it is never a target, and makes no predictions."""
        return self.role == "source"

    @property
    def target_only(self) -> bool:
        """Whether the model has no gradients: a remote service, or a model with a transform."""
        return self.remote is not None or self.transform is not None


_NAMES_OF_WEIGHTS = frozenset({
    *("weights", "weights_backbone", "pretrained", "pretrained_backbone", "pretrained_cfg", "pretrained_cfg_overlay"),
    *("checkpoint_path", "cache_dir"),
})  # fmt: skip
"""Names of the arguments with which the zoos' own functions load weights."""

_OF_NETWORKS = (
    *("weights", "sha256", "arguments", "size", "interpolation"),
    *("mean", "std", "channels", "range", "classes", "prompts", "role"),
)
