"""How a target stands to the models that an image was crafted on: what makes a number white-box, grey-box or transfer.

One rule, from the references of a spec: rows record its answer, and every table, mean, mark and claim goes by it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Literal, get_args

from study.reproducibility.hashing import digest

if TYPE_CHECKING:
    import polars as pl

    from study.models.reference import Model

Relation = Literal["white", "grey", "black"]
RELATIONS: tuple[Relation, ...] = get_args(Relation)

MARKS: Mapping[str | None, str] = {"white": "*", "grey": "°"}
"""What stands behind a number in tables. Black-box numbers, and what is of several kinds, have none."""

MARKED: Mapping[Relation, str] = {
    "white": "* the target is one of the source models (white-box)",
    "grey": "° the target has the network of a source model, behind a transform or with other weights (grey-box)",
}
"""What the marks mean, for the notes below tables."""


def marked(kinds: Iterable[str | None]) -> list[str]:
    """The notes on the marks that cells of these relations have."""
    found = set(kinds)
    return [said for kind, said in MARKED.items() if kind in found]


def relation(models: Mapping[str, Model], sources: Sequence[str], target: str) -> Relation:
    """How `target` stands to the `sources` of a craft, one model or several; all are names of `models`.

    `white`: it is one of them. `grey`: it has the network of one of them, behind a transform of finished images, under
    another name, or with other weights. `black`: none of that, as far as the spec says; also a service, and whatever
    images that were made elsewhere are shown to.
    """
    if target in sources:
        return "white"
    own = network(models[target])
    return "grey" if own is not None and own in {network(models[name]) for name in sources} else "black"


def network(model: Model) -> str | None:
    """What tells an architecture from others: its name, without zoo and weights; None for a service.

    Code of the user's own is told apart by its function and the arguments of that: a function may build any network.
    """
    if model.network is None:
        return None
    if model.zoo == "python":
        return f"{model.network} {digest(model.arguments)}"
    # timm writes its weights behind a full stop: `resnet50.a1_in1k`.
    return model.name.partition(".")[0].lower()


def grey_pairs(models: Mapping[str, Model]) -> dict[str, list[str]]:
    """By target, the models that make it grey where they are among the sources; targets without such are left out."""
    found = {
        target: [name for name in models if name != target and relation(models, [name], target) == "grey"]
        for target in models
    }
    return {target: kin for target, kin in found.items() if kin}


def graded(rows: pl.LazyFrame, models: Mapping[str, Model]) -> pl.LazyFrame:
    """Rows whose `relation` was made of a white-box flag, with the grey ones told from the black: `models` are those of
    the spec that the rows belong to."""
    import polars as pl

    grey = pl.lit(False)
    for target, kin in grey_pairs(models).items():
        among = pl.col("sources").list.set_intersection(pl.lit(kin, pl.List(pl.String))).list.len() > 0
        grey = grey | ((pl.col("target") == target) & among)
    return rows.with_columns(
        pl.when(grey & (pl.col("relation") == "black")).then(pl.lit("grey")).otherwise("relation").alias("relation")
    )
