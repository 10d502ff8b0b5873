"""Image classifiers: sources, weights, preprocessing and predictions."""

from study.models.reference import Model

__all__ = ["Model"]
