"""The relation of a target to the source models of an image: white-box, grey-box or black-box.

A single rule computes the relation from the models of a spec. Rows record it. All tables, means, marks and findings use
this record.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Literal, get_args

from study.models.families import architecture
from study.models.reference import Model
from study.reproducibility.hashing import digest

if TYPE_CHECKING:
    import polars as pl

Relation = Literal["white", "grey", "black"]
RELATIONS: tuple[Relation, ...] = get_args(Relation)

MARKS: Mapping[str | None, str] = {"white": "*", "grey": "°"}
"""The marks after numbers in tables. Black-box numbers, and means over several relations, have no mark."""

MARKED: Mapping[Relation, str] = {
    "white": "* the target is one of the source models (white-box)",
    "grey": "° the target has the network of a source model, with a transform or with other weights (grey-box)",
}
"""The meaning of the marks, for notes below tables."""


def marked(kinds: Iterable[str | None]) -> list[str]:
    """Return the notes on the marks of cells with these relations."""
    found = set(kinds)
    return [note for kind, note in MARKED.items() if kind in found]


def relation(models: Mapping[str, Model], sources: Sequence[str], target: str) -> Relation:
    """Return the relation of `target` to the `sources` of an attack run; all are names in `models`.

    `white`: the target is a source. `grey`: it has the network of a source, with a transform, under another name, or
    with other weights. `black`: any other target, including services and all targets of images whose sources are
    `elsewhere`: the spec does not tell whether such a target resembles a source.
    """
    if target in sources:
        return "white"
    own = network(models[target])
    return "grey" if own is not None and own in {network(models[name]) for name in sources} else "black"


def network(model: Model) -> str | None:
    """Return the name of a model's architecture, without zoo and weights; None for a service.

    Torchvision's `vit_b_16` and timm's `vit_base_patch16_224` are one architecture. For a user's code, the name is
    the function with a digest of its arguments, because one function may build several networks.
    """
    if model.network is None:
        return None
    if model.zoo == "python":
        return f"{model.network} {digest(model.arguments)}"
    return architecture(model.name)


def grey_pairs(models: Mapping[str, Model]) -> dict[str, list[str]]:
    """Return, by target, the models that make the target grey-box if they are sources. Other targets are left out."""
    found = {
        target: [name for name in models if name != target and relation(models, [name], target) == "grey"]
        for target in models
    }
    return {target: kin for target, kin in found.items() if kin}


def graded(rows: pl.LazyFrame, models: Mapping[str, Model]) -> pl.LazyFrame:
    """Correct the column `relation` of old rows: write `grey` where early versions, without grey-box, wrote `black`.

    `models`: the models of the spec of these rows.
    """
    import polars as pl

    grey = pl.lit(False)
    for target, kin in grey_pairs(models).items():
        among = pl.col("sources").list.set_intersection(pl.lit(kin, pl.List(pl.String))).list.len() > 0
        grey = grey | ((pl.col("target") == target) & among)
    return rows.with_columns(
        pl.when(grey & (pl.col("relation") == "black")).then(pl.lit("grey")).otherwise("relation").alias("relation")
    )
