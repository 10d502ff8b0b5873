"""The relation of a target to the source models of an image: white-box, grey-box or black-box.

One function computes the relation from the models of a spec, and rows record it. All tables, means, marks and findings
use the recorded relation.
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
"""The marks after numbers in tables, by relation. Black-box numbers, and means over several relations, have no mark."""

MARKED: Mapping[Relation, str] = {
    "white": "* the target is one of the source models (white-box)",
    "grey": "° the target has the network of a source model, with a transform or with other weights (grey-box)",
}
"""The meaning of the marks, for notes below tables."""


def marked(kinds: Iterable[str | None]) -> list[str]:
    """Return the notes that explain the marks of cells with the relations `kinds`."""
    found = set(kinds)
    return [note for kind, note in MARKED.items() if kind in found]


def relation(models: Mapping[str, Model], sources: Sequence[str], target: str) -> Relation:
    """Return the relation of `target` to the `sources` of an attack run. All are names in `models`.

    - `white`: the target is a source.
    - `grey`: the target has the network of a source, but with a transform, under another name, or with other weights.
    - `black`: the target is none of these. This includes services. It also includes all targets if the sources are
      `elsewhere`, because the spec does not tell whether a target resembles such a source.
    """
    if target in sources:
        return "white"
    own = network(models[target])
    return "grey" if own is not None and own in {network(models[name]) for name in sources} else "black"


def network(model: Model) -> str | None:
    """Return the name of a model's architecture, without its library (zoo) and its weights; None for a service.

    Torchvision's `vit_b_16` and timm's `vit_base_patch16_224` are one architecture. For a user's code, the name is the
    function with a digest of its arguments, because one function may build several networks.
    """
    if model.network is None:
        return None
    if model.zoo == "python":
        return f"{model.network} {digest(model.arguments)}"
    return architecture(model.name)


def grey_pairs(models: Mapping[str, Model]) -> dict[str, list[str]]:
    """Return, for each target, the models that make the target grey-box if they are sources.

    Targets without such models are left out.
    """
    found = {
        target: [name for name in models if name != target and relation(models, [name], target) == "grey"]
        for target in models
    }
    return {target: kin for target, kin in found.items() if kin}


def graded(rows: pl.LazyFrame, models: Mapping[str, Model]) -> pl.LazyFrame:
    """Return all rows. In the column `relation`, the value for grey-box targets is changed from `black` to `grey`.

    Early versions of the program wrote `black` for such targets. `models` are the models in the rows' spec.
    """
    import polars as pl

    grey = pl.lit(False)
    for target, kin in grey_pairs(models).items():
        among = pl.col("sources").list.set_intersection(pl.lit(kin, pl.List(pl.String))).list.len() > 0
        grey = grey | ((pl.col("target") == target) & among)
    return rows.with_columns(
        pl.when(grey & (pl.col("relation") == "black")).then(pl.lit("grey")).otherwise("relation").alias("relation")
    )
