"""From rows to answers: typed functions from a polars LazyFrame to a polars frame. No model is run here.

    from study import analysis
    from study.results import scanning

    analysis.success_rates(scanning.scan("runs/quickstart"))

Rates are shares, 0..1; lengths are in pixel values, 0..255. Where nothing counts, a rate is null and `images` is 0.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from study.errors import names

if TYPE_CHECKING:
    from study.analysis.bootstrap import bootstrap_rates, paired_differences
    from study.analysis.classes import per_class, wrong_labels
    from study.analysis.distances import minimal_cdf, minimal_summary
    from study.analysis.intervals import wilson
    from study.analysis.matrix import leave_one_out, transfer_matrix
    from study.analysis.mistakes import agreement_matrix, agreements
    from study.analysis.robustness import destruction_rates
    from study.analysis.sweeps import best_within, sweep
    from study.analysis.transfer import (
        CELL,
        accuracies,
        clean_accuracies,
        kept,
        matching_rates,
        over_seeds,
        succeeded,
        success_rates,
    )

__all__ = [
    "CELL",
    "accuracies",
    "agreement_matrix",
    "agreements",
    "best_within",
    "bootstrap_rates",
    "clean_accuracies",
    "destruction_rates",
    "kept",
    "leave_one_out",
    "matching_rates",
    "minimal_cdf",
    "minimal_summary",
    "over_seeds",
    "paired_differences",
    "per_class",
    "succeeded",
    "success_rates",
    "sweep",
    "transfer_matrix",
    "wilson",
    "wrong_labels",
]

_MODULES = {
    "bootstrap": ("bootstrap_rates", "paired_differences"),
    "classes": ("per_class", "wrong_labels"),
    "distances": ("minimal_cdf", "minimal_summary"),
    "intervals": ("wilson",),
    "matrix": ("leave_one_out", "transfer_matrix"),
    "mistakes": ("agreement_matrix", "agreements"),
    "robustness": ("destruction_rates",),
    "sweeps": ("best_within", "sweep"),
}
"""Where the names are that are not in `transfer`: polars is imported when the first of them is asked for."""


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"study.analysis has no '{name}'; it has {names(__all__, name)}")
    module = next((module for module, those in _MODULES.items() if name in those), "transfer")
    return getattr(importlib.import_module(f"study.analysis.{module}"), name)


def __dir__() -> list[str]:
    return __all__
