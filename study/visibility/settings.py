"""The section `visibility:` of a spec: measures of visibility that need a network."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from study.errors import StudyError
from study.spec.frozen import Frozen

NetworkName = Literal["alex", "vgg", "squeeze"]

SMALLEST: dict[NetworkName, int] = {"alex": 31, "vgg": 16, "squeeze": 17}
"""For each network, the smallest side of an image in pixels with which the network can compute all its features."""


class LpipsOptions(Frozen):
    """Compute LPIPS (Zhang et al. 2018, arXiv:1801.03924) of every adversarial image, in the column `lpips`.

    - `network`: `alex`, `vgg` or `squeeze`, as in the package `lpips`;
    - `weights`: `file:<path>`, the state dict of `lpips.LPIPS(net=...)`: the network and its linear layers;
    - `sha256`: the file's SHA-256; the program writes it. A run continues with the same file only.
    """

    network: NetworkName = "alex"
    weights: Annotated[str, Field(pattern=r"^file:.+")]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-fA-F]{64}$")] | None = None

    @field_validator("sha256")
    @classmethod
    def _in_lower_case(cls, given: str | None) -> str | None:
        return None if given is None else given.lower()

    @property
    def smallest(self) -> int:
        """The smallest side, in pixels, of an image for which the network can compute LPIPS."""
        return SMALLEST[self.network]

    @property
    def file(self) -> Path:
        """The path of the weights file."""
        return Path(self.weights.removeprefix("file:"))

    def identity(self) -> dict[str, Any]:
        """Return the options that determine the values of LPIPS: the network and the SHA-256, but not the path."""
        return {"network": self.network, "sha256": self.sha256}

    def with_digest(self) -> LpipsOptions:
        """Return the options with the SHA-256 of the weights file.

        Raises StudyError if the file is missing, or if its SHA-256 differs from `sha256`.
        """
        if not self.file.is_file():
            raise StudyError(f"the weights file {self.file} does not exist", todo="correct `weights: file:…`")
        with self.file.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if self.sha256 not in (None, found):
            raise StudyError(
                f"the weights file {self.file} has another SHA-256 than the spec requires",
                accepted=f"sha256 {self.sha256}; found {found}",
                todo="restore the right file, or correct `sha256`",
            )
        return self.model_copy(update={"sha256": found})


class VisibilityOptions(Frozen):
    """Measures of visibility in addition to RMSD, L-infinity, PSNR, SSIM and CIEDE2000, which every run has."""

    lpips: LpipsOptions | None = None

    def identity(self) -> dict[str, Any]:
        """Return the options that determine the values of the measures; empty without LPIPS."""
        return {} if self.lpips is None else {"lpips": self.lpips.identity()}

    def with_digests(self, where: Callable[..., str]) -> VisibilityOptions:
        """Return the options with the SHA-256 of the LPIPS file.

        `where("visibility", "lpips")` returns the place in the spec. Raises StudyError with this place if the file is
        missing or has another SHA-256.
        """
        if self.lpips is None:
            return self
        try:
            return VisibilityOptions(lpips=self.lpips.with_digest())
        except StudyError as error:
            raise error.located(where("visibility", "lpips")) from None
