"""A spec and its YAML document."""

from __future__ import annotations

from dataclasses import dataclass

from study.reproducibility.numerics import Numerics
from study.spec.schema import Spec
from study.spec.yaml_document import Document


@dataclass(frozen=True)
class SpecFile:
    """A spec and the YAML document from which it was read, so that later errors can name file, line and key."""

    spec: Spec
    document: Document

    def settled(self, device: str) -> SpecFile:
        """Return the same file with `numerics.precision: auto` replaced by what `auto` means on `device`."""
        return self.with_numerics(self.spec.numerics.settled(device))

    def with_numerics(self, numerics: Numerics) -> SpecFile:
        """Return the same file with other numerics."""
        return SpecFile(self.spec.model_copy(update={"numerics": numerics}), self.document)

    def short_name(self, model: str) -> str:
        """Return the network of a model as the user wrote it; the model's name if the user wrote no network.

        The user may have written a short name, which is replaced by the full name in `spec`.
        """
        models = self.document.data.get("models") if isinstance(self.document.data, dict) else None
        given = models.get(model) if isinstance(models, dict) else None
        network = given.get("network") if isinstance(given, dict) else given
        return network if isinstance(network, str) else model

    def where(self, *place: str | int) -> str:
        return self.document.where(place)
