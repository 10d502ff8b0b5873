"""The papers whose tables can be reproduced: where their numbers lie, which tables there are, how a spec names them.

Read with the csv module alone: a spec is checked against the tables' names without polars.
"""

from __future__ import annotations

import csv
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, model_serializer, model_validator
from pydantic_core import PydanticCustomError

from study.errors import StudyError
from study.spec.frozen import Frozen

PAPERS: Mapping[str, str] = {
    "liu2017": "Liu et al. 2017 (arXiv:1611.02770)",
    "smoothed2019": "Wu et al. 2019 (Exploring and Enhancing the Transferability of Adversarial Examples)",
    "sgm2020": "Wu et al. 2020 (arXiv:2002.05990)",
}
"""By the name of the paper's file, the paper."""

FOLDER = Path(__file__).resolve().parent / "printed_numbers"

COLUMNS = (
    *("paper", "table", "experiment", "attack", "goal", "sources", "target", "metric", "value", "std", "rmsd"),
    *("params", "note"),
)


class Published(Frozen):
    """Which published tables an experiment reproduces.

    Written `liu2017:1A`, a list of such, or `{tables: […], attacks: {<ours>: <theirs>}}` where attacks have other names
    in the spec than in the paper. Who is named in `attacks` stands for theirs alone: another attack of the experiment
    that happens to have that name does not.
    """

    tables: Annotated[tuple[str, ...], Field(strict=False, min_length=1)]
    attacks: dict[str, str] = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _from_yaml(cls, given: Any) -> Any:
        if isinstance(given, str):
            return {"tables": [given]}
        if isinstance(given, list | tuple):
            return {"tables": given}
        if isinstance(given, dict) and isinstance(given.get("tables"), str):
            return {**given, "tables": [given["tables"]]}
        return given

    @model_validator(mode="after")
    def _paper_and_table(self) -> Published:
        for one in self.tables:
            paper, colon, table = one.partition(":")
            if not (paper and colon and table):
                raise PydanticCustomError(
                    "published",
                    "'{given}' names no table of a paper",
                    {"given": one, "accepted": "<paper>:<table>, such as liu2017:1A"},
                )
        return self

    @model_serializer
    def _to_yaml(self) -> Any:
        return {"tables": list(self.tables), "attacks": dict(self.attacks)} if self.attacks else list(self.tables)

    def called(self, attack: str) -> str | None:
        """What the paper calls an attack of the experiment; None where another stands for that name."""
        if attack in self.attacks:
            return self.attacks[attack]
        return None if attack in self.attacks.values() else attack


@functools.cache
def rows(paper: str) -> tuple[dict[str, str], ...]:
    """The lines of a paper's file, as they are written. Raises StudyError where the file is not there, or not such."""
    path = FOLDER / f"{paper}.csv"
    try:
        with path.open(newline="", encoding="utf-8") as opened:
            read = csv.DictReader(opened)
            if tuple(read.fieldnames or ()) != COLUMNS:
                raise StudyError(f"{path} does not have the columns of a published table", accepted=", ".join(COLUMNS))
            return tuple(read)
    except (OSError, UnicodeDecodeError) as error:
        raise StudyError(
            f"the published numbers cannot be read: {error}",
            where=str(path),
            todo="install the package from its repository, such as with `pip install --editable .`",
        ) from None


@functools.cache
def attacks_of(paper: str) -> Mapping[str, frozenset[str]]:
    """The tables of a paper in its order, and the attacks that each prints numbers of."""
    found: dict[str, set[str]] = {}
    for row in rows(paper):
        found.setdefault(row["table"], set()).add(row["attack"])
    return {table: frozenset(attacks) for table, attacks in found.items()}
