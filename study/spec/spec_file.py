"""A spec and its YAML document."""

from __future__ import annotations

from dataclasses import dataclass

from study.spec.schema import Spec
from study.spec.yaml_document import Document


@dataclass(frozen=True)
class SpecFile:
    """A spec and its YAML document, so that later errors can name file, line and key."""

    spec: Spec
    document: Document

    def where(self, *place: str | int) -> str:
        return self.document.where(place)
