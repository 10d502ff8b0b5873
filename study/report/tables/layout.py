"""A table of success rates before it is formatted: rates, rows, and the whole table with its notes."""

from __future__ import annotations

from dataclasses import dataclass

from study.images.clean_accuracy import Right
from study.planning.relation import MARKS, Relation, marked
from study.report.wording import CLEAN_ACCURACY, RMSD, rate_decimals, rmsd_range

_DEFINITIONS = {
    "accuracy": "Accuracy (%): adversarial images whose true label is {rank}; lower means a stronger attack",
    "success": "Untargeted success rate (%): adversarial images whose true label is not {rank}",
    "match": "Targeted success rate (%): adversarial images whose target label is {rank}",
}


@dataclass(frozen=True)
class TableRate:
    """A rate in percent; `std` is its sample standard deviation over seeds (None for one seed)."""

    value: float
    std: float | None
    images: int
    seeds: int
    relation: Relation
    rmsd: float
    """Mean, in pixel values; in a search of the minimal RMSD, the one that this target needed."""
    best: bool = False

    @property
    def black(self) -> bool:
        return self.relation == "black"

    @property
    def mark(self) -> str:
        """`*` for white-box, `°` for grey-box."""
        return MARKS.get(self.relation, "")

    def text(self, plus_minus: str = "±") -> str:
        decimals = rate_decimals(self.images)
        spread = "" if self.std is None else f" {plus_minus} {self.std:.{max(1, decimals)}f}"
        return f"{self.value:.{decimals}f}{spread}"


@dataclass(frozen=True)
class TableRow:
    """An attack, or one of its points, on one source set; `rates` has one rate per target, None without rows."""

    attack: str
    variant: str
    sources: str
    rates: tuple[TableRate | None, ...]

    @property
    def rmsd_text(self) -> str:
        return rmsd_range([rate.rmsd for rate in self.rates if rate is not None])


@dataclass(frozen=True)
class Layout:
    """A table: `rows` are in the order of the experiment's attacks and sources, `clean` is by target."""

    experiment: str
    goal: str
    metric: str
    top: int
    targets: tuple[str, ...]
    rows: tuple[TableRow, ...]
    clean: tuple[Right | None, ...] = ()
    """Answers of each target to clean images; None if unknown."""

    @property
    def title(self) -> str:
        return f"{self.experiment}, {self.goal}, top-{self.top} {self.metric}"

    @property
    def notes(self) -> list[str]:
        """Definitions of the rate, the marks, bold, RMSD and clean accuracy."""
        definition = _DEFINITIONS["match" if self.goal == "targeted" and self.metric == "success" else self.metric]
        rank = "the target's top-1 label" if self.top == 1 else f"among the target's top-{self.top} labels"
        rates = [rate for row in self.rows for rate in row.rates if rate is not None]
        seeds = max((rate.seeds for rate in rates), default=1)
        rivals = "attack on the same sources" if len({row.variant for row in self.rows}) > 1 else "source set"
        return [
            definition.format(rank=rank),
            *marked(rate.relation for rate in rates),
            f"Bold: the strongest {rivals} among black-box rates",
            RMSD,
            *([f"±: standard deviation over {seeds} seeds"] if seeds > 1 else []),
            *([CLEAN_ACCURACY] if any(self.clean) else []),
        ]

    @property
    def clean_accuracies(self) -> tuple[str, ...]:
        """The clean accuracy of each target in percent, as text; empty if none is known."""
        shown = ("–" if one is None or not one.images else f"{100 * one.share:.0f}" for one in self.clean)
        return tuple(shown) if any(self.clean) else ()
