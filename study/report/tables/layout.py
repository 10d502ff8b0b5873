"""Defines a table of success rates, independent of file formats: its style, rates, rows, and notes."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from study.images.clean_accuracy import Right
from study.planning.relation import MARKS, Relation, marked
from study.report.wording import (
    BLACK_BOX_MEAN,
    CLEAN_ACCURACY,
    CLEAN_CORRECT,
    RMSD,
    count_range,
    fixed,
    listed,
    rate_decimals,
    rmsd_range,
)

_DEFINITIONS = {
    "accuracy": "Accuracy (%): adversarial images whose true label is {rank}; lower means a stronger attack",
    "success": "Untargeted success rate (%): adversarial images whose true label is not {rank}",
    "match": "Targeted success rate (%): adversarial images whose target label is {rank}",
}
_INTERVALS = "In brackets: the 95 % interval (Wilson); each image is counted once for all seeds"


@dataclass(frozen=True)
class TableStyle:
    """How a table prints its numbers and names.

    Attributes:
        decimals: Number of decimals of rates; None if the number of images decides (see `rate_decimals`).
        mean: Whether to add the mean of the black-box rates, as a further column or row.
        intervals: Whether to print intervals instead of standard deviations.
        names: The names to print for attacks, models and experiments, by their names in the spec.
        across: Whether attacks are columns. Then there is a row for each pair of source set and target.
        spread: Whether to print standard deviations over seeds.
        clean_correct: Whether to print, in parentheses, the rates over the images that the target classifies correctly
            when clean.
    """

    decimals: int | None = None
    mean: bool = False
    intervals: bool = False
    names: Mapping[str, str] = field(default_factory=dict)
    across: bool = False
    spread: bool = True
    clean_correct: bool = False

    def named(self, name: str) -> str:
        return self.names.get(name, name)

    def sources(self, joined: str) -> str:
        """Return the printed names of the source models in `joined`, which are joined by `+`."""
        return " + ".join(map(self.named, joined.split("+")))


PLAIN = TableStyle()


@dataclass(frozen=True)
class TableRate:
    """A rate in a table: `value` in percent, with its 95 % interval (`low`, `high`).

    `std` is the sample standard deviation over seeds; None for one seed. `best`: whether the rate is printed bold.
    """

    value: float
    std: float | None
    images: int
    seeds: int
    relation: Relation
    rmsd: float
    """The mean RMSD in pixel values 0..255. In a search for the minimal RMSD: the mean of the RMSDs that were found."""
    best: bool = False
    low: float | None = None
    high: float | None = None
    clean_correct: float | None = None
    """The rate in percent over the images that the target classifies correctly when clean.

    None if there are no such images, or if this rate was not computed."""
    clean_correct_images: int | None = None
    """The number of images for `clean_correct`; None if it was not computed."""

    @property
    def black(self) -> bool:
        return self.relation == "black"

    @property
    def mark(self) -> str:
        """The mark after the rate: `*` for white-box, `°` for grey-box, empty for black-box."""
        return MARKS.get(self.relation, "")

    def parts(self, style: TableStyle) -> tuple[str, str, tuple[str, str] | None]:
        """Return the rate, its standard deviation and its interval as texts.

        The standard deviation is empty if it is not known, or if the style does not print it. The interval is None if
        it is not known, or if the style does not print intervals.
        """
        decimals = rate_decimals(self.images) if style.decimals is None else style.decimals
        interval = None
        if style.intervals and self.low is not None and self.high is not None:
            interval = (fixed(self.low, decimals), fixed(self.high, decimals))
        spread = "" if self.std is None or style.intervals or not style.spread else fixed(self.std, max(1, decimals))
        return fixed(self.value, decimals), spread, interval

    def text(self, plus_minus: str = "±", style: TableStyle = PLAIN) -> str:
        value, spread, interval = self.parts(style)
        text = value + (f" {plus_minus} {spread}" if spread else "")
        text += f" [{', '.join(interval)}]" if interval else ""
        return text + (f" ({self._clean_text(style)})" if style.clean_correct else "")

    def _clean_text(self, style: TableStyle) -> str:
        if self.clean_correct is None:
            return "–"
        decimals = rate_decimals(self.images) if style.decimals is None else style.decimals
        return fixed(self.clean_correct, decimals)


@dataclass(frozen=True)
class TableRow:
    """A row of a table: an attack at one point (number of steps and budget) on one source set.

    `variant` is the name of the attack at this point. `rates` has one rate for each target; None if the run has no
    rows. `best_mean`: whether the mean is printed bold.
    """

    attack: str
    variant: str
    sources: str
    rates: tuple[TableRate | None, ...]
    best_mean: bool = False

    @property
    def rmsd_text(self) -> str:
        return rmsd_range([rate.rmsd for rate in self.rates if rate is not None])

    @property
    def mean(self) -> TableRate | None:
        """The mean of the row's black-box rates; None without black-box rates."""
        rates = [rate for rate in self.rates if rate is not None and rate.black]
        if not rates:
            return None
        value, rmsd = (statistics.fmean(one) for one in zip(*((rate.value, rate.rmsd) for rate in rates), strict=True))
        clean = [rate.clean_correct for rate in rates if rate.clean_correct is not None]
        return TableRate(
            value, None, rates[0].images, rates[0].seeds, "black", rmsd, self.best_mean,
            clean_correct=statistics.fmean(clean) if clean else None,
        )  # fmt: skip

    def shown(self, style: TableStyle) -> str:
        """Return the printed name of the attack at its point (number of steps and budget)."""
        return style.named(self.attack) + self.variant.removeprefix(self.attack)


@dataclass(frozen=True)
class Layout:
    """A table of one experiment and goal. `rows` are in the order of the experiment's attacks and source sets."""

    experiment: str
    goal: str
    metric: str
    top: int
    targets: tuple[str, ...]
    rows: tuple[TableRow, ...]
    clean: tuple[Right | None, ...] = ()
    """The numbers of correct answers of each target to clean images; None if they are not known."""
    style: TableStyle = PLAIN
    guessing: tuple[str, ...] = ()
    """The targets that classify clean images no better than a guess. A note names them if means are printed."""

    @property
    def title(self) -> str:
        return f"{self.style.named(self.experiment)}, {self.goal}, top-{self.top} {self.metric}"

    @property
    def notes(self) -> list[str]:
        """The notes below the table: what the rate, marks, bold numbers, means, RMSD and clean accuracy mean."""
        definition = _DEFINITIONS["match" if self.goal == "targeted" and self.metric == "success" else self.metric]
        rank = "the target's top-1 label" if self.top == 1 else f"among the target's top-{self.top} labels"
        rates = [rate for row in self.rows for rate in row.rates if rate is not None]
        seeds = max((rate.seeds for rate in rates), default=1)
        rivals = "attack on the same sources" if len({row.variant for row in self.rows}) > 1 else "source set"
        spread = f"±: standard deviation over {seeds} seeds"
        return [
            definition.format(rank=rank),
            f"{count_range(rate.images for rate in rates)} images" + (f", {seeds} seeds" if seeds > 1 else ""),
            *marked(rate.relation for rate in rates),
            f"Bold: the strongest {rivals} among black-box rates",
            *([BLACK_BOX_MEAN, *self._guesses()] if self.style.mean else []),
            *([CLEAN_CORRECT] if self.style.clean_correct else []),
            RMSD,
            *([_INTERVALS] if self.style.intervals else [spread] if seeds > 1 and self.style.spread else []),
            *([CLEAN_ACCURACY] if any(self.clean) and not self.style.across else []),
        ]

    def _guesses(self) -> list[str]:
        """Return the note about models that only guess; nothing if there are no such models."""
        if not self.guessing:
            return []
        names = listed(self.style.named(name) for name in self.guessing)
        classify = "classifies" if len(self.guessing) == 1 else "classify"
        return [f"The means include rates of {names}, which {classify} clean images no better than by chance"]

    @property
    def clean_accuracies(self) -> tuple[str, ...]:
        """The clean accuracy of each target in percent, as text; empty if no clean accuracy is known."""
        decimals = self.style.decimals or 0
        shown = ("–" if one is None or not one.images else fixed(100 * one.share, decimals) for one in self.clean)
        return tuple(shown) if any(self.clean) else ()


def points(rows: Sequence[TableRow]) -> list[str]:
    """Return the names of the attacks at their points (number of steps and budget), in the order of the rows."""
    return list(dict.fromkeys(row.variant for row in rows))
