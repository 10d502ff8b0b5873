"""The papers whose tables a study can reproduce, the files of their numbers, and the key `published` of a spec.

The files are read with the csv module, so that the validation of a spec need not import polars.
"""

from __future__ import annotations

import csv
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ConfigDict, Field, model_serializer, model_validator
from pydantic_core import PydanticCustomError

from study.distribution import NAME
from study.errors import StudyError
from study.spec.frozen import Frozen
from study.spec.shorthand import TEXT, TEXTS, Names, also


class Paper(NamedTuple):
    """A paper, or another published list of numbers.

    Attributes:
        title: The authors, and the title or address of the publication.
        images: A description of the images that most of its tables use.
    """

    title: str
    images: str


PAPERS: Mapping[str, Paper] = {
    "liu2017": Paper(
        "Liu et al. 2017 (arXiv:1611.02770)",
        "100 ILSVRC 2012 validation images that its five models classify correctly",
    ),
    "smoothed2019": Paper(
        "Wu et al. 2019 (Exploring and Enhancing the Transferability of Adversarial Examples)",
        "5,000 random images of each data set that its models classify correctly",
    ),
    "sgm2020": Paper(
        "Wu et al. 2020 (arXiv:2002.05990)",
        "5,000 random ILSVRC 2012 validation images that its source models classify correctly; five runs",
    ),
    "transferattack": Paper(
        "the readme of TransferAttack (github.com/Trustworthy-AI-Group/TransferAttack, 2663e4a)",
        "1,000 images of the list that comes with its code",
    ),
}
"""The papers. The key is the paper's name in a spec, and also the name of the paper's file."""

FOLDER = Path(__file__).resolve().parent / "printed_numbers"

COLUMNS = (
    *("paper", "table", "experiment", "attack", "goal", "sources", "target", "metric", "value", "std", "rmsd"),
    *("params", "note"),
)


class Published(Frozen):
    """The published tables that an experiment reproduces.

    The value is one table, such as `liu2017:1A`, or a list of tables. If attacks have other names in the spec than in
    the paper, the value is `{tables: […], attacks: {<ours>: <theirs>}}`. `models` does the same for models. An attack
    in `attacks` is compared only with the paper's attack to which `attacks` maps it. No other attack of the experiment
    is compared with this attack of the paper, even if it has the same name.
    """

    model_config = ConfigDict(json_schema_extra=also(TEXT, TEXTS))

    tables: Names
    attacks: dict[str, str] = Field(default_factory=dict)
    models: dict[str, str] = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _from_yaml(cls, given: Any) -> Any:
        return {"tables": given} if isinstance(given, str | list | tuple) else given

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
        named = {"attacks": dict(self.attacks)} if self.attacks else {}
        named |= {"models": dict(self.models)} if self.models else {}
        return {"tables": list(self.tables), **named} if named else list(self.tables)

    def called(self, attack: str) -> str | None:
        """Return the paper's name of an attack of the experiment.

        Return None if `attacks` maps another attack to the name of this attack.
        """
        if attack in self.attacks:
            return self.attacks[attack]
        return None if attack in self.attacks.values() else attack

    def printed(self, models: str) -> str:
        """Return the paper's names of `models`, in string order. Both texts are names of models joined by `+`."""
        return "+".join(sorted(self.models.get(one, one) for one in models.split("+"))) if models else ""


@functools.cache
def rows(paper: str) -> tuple[dict[str, str], ...]:
    """Return the lines of a paper's file as text. Raises StudyError if the file is missing or has other columns."""
    path = FOLDER / f"{paper}.csv"
    try:
        with path.open(newline="", encoding="utf-8") as opened:
            read = csv.DictReader(opened)
            if tuple(read.fieldnames or ()) != COLUMNS:
                raise StudyError(f"{path} does not have the columns of published tables", accepted=", ".join(COLUMNS))
            return tuple(read)
    except (OSError, UnicodeDecodeError) as error:
        raise StudyError(
            f"the published numbers cannot be read: {error}",
            where=str(path),
            todo=f"pip install --force-reinstall --no-deps {NAME}, or restore the file in a checkout",
        ) from None


@functools.cache
def attacks_of(paper: str) -> Mapping[str, frozenset[str]]:
    """Return the names of the attacks in each table of a paper, by table, in the order of the paper."""
    found: dict[str, set[str]] = {}
    for row in rows(paper):
        found.setdefault(row["table"], set()).add(row["attack"])
    return {table: frozenset(attacks) for table, attacks in found.items()}
