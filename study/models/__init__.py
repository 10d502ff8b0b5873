"""Image classifiers: where they come from, what they want as input, what they predict."""

from study.models.reference import Model

__all__ = ["Model"]
