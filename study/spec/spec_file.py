"""A spec and its YAML document."""

from __future__ import annotations

from dataclasses import dataclass

from study.reproducibility.numerics import Numerics
from study.spec.schema import Spec
from study.spec.yaml_document import Document


@dataclass(frozen=True)
class SpecFile:
    """A spec and its YAML document, so that later errors can name file, line and key."""

    spec: Spec
    document: Document

    def settled(self, device: str) -> SpecFile:
        """The spec with `numerics.precision: auto` replaced by the precision that it means on `device`."""
        return self.with_numerics(self.spec.numerics.settled(device))

    def with_numerics(self, numerics: Numerics) -> SpecFile:
        """The same file with other numerics."""
        return SpecFile(self.spec.model_copy(update={"numerics": numerics}), self.document)

    def where(self, *place: str | int) -> str:
        return self.document.where(place)
