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
        """The same file with `numerics.precision: auto` replaced by the precision that `auto` means on `device`."""
        return self.with_numerics(self.spec.numerics.settled(device))

    def with_numerics(self, numerics: Numerics) -> SpecFile:
        """The same file with other numerics."""
        return SpecFile(self.spec.model_copy(update={"numerics": numerics}), self.document)

    def short_name(self, model: str) -> str:
        """The network of a model as the user wrote it, such as a short name, which the spec replaces by the full name.

        If the user wrote no network, the name of the model.
        """
        models = self.document.data.get("models") if isinstance(self.document.data, dict) else None
        given = models.get(model) if isinstance(models, dict) else None
        network = given.get("network") if isinstance(given, dict) else given
        return network if isinstance(network, str) else model

    def where(self, *place: str | int) -> str:
        return self.document.where(place)
