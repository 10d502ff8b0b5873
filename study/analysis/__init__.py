"""Analysis of the rows of a run: most functions take a polars LazyFrame of rows and return a polars DataFrame.

    import study
    from study import analysis

    analysis.success_rates(study.load("runs/quickstart").scan())

A row has the answer of one target to one adversarial image. The argument `by` names key columns. The rows with equal
values of all keys form a cell, and the result has one row for each cell.

Rates are shares 0..1, and distances are in pixel values 0..255. `images` is the number of clean images; each is counted
once. If no image of a cell counts, the rate is null and `images` is 0, or the cell is left out. A run has rows of
several goals, seeds, steps and budgets. Filter the rows to one value of each, or keep these columns as keys.
"""

from study.analysis.bootstrap import bootstrap_rates, paired_differences
from study.analysis.classes import per_class, wrong_labels
from study.analysis.costs import at_cost
from study.analysis.experiments import with_clean_correct
from study.analysis.intervals import wilson
from study.analysis.matrix import leave_one_out, transfer_matrix
from study.analysis.minimal_rmsd import minimal_cdf, minimal_summary
from study.analysis.mistakes import agreement_matrix, agreements
from study.analysis.queries import success_by_queries
from study.analysis.ranking import ranking
from study.analysis.rates import (
    CELL,
    accuracies,
    clean_accuracies,
    kept,
    matching_rates,
    over_seeds,
    succeeded,
    success_rates,
)
from study.analysis.robustness import destruction_rates
from study.analysis.sweeps import best_within, sweep
from study.analysis.visibility import visibility

__all__ = [
    "CELL",
    "accuracies",
    "agreement_matrix",
    "agreements",
    "at_cost",
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
    "ranking",
    "succeeded",
    "success_by_queries",
    "success_rates",
    "sweep",
    "transfer_matrix",
    "visibility",
    "wilson",
    "with_clean_correct",
    "wrong_labels",
]
