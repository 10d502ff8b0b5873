"""Makes short names of models for tables that are wider than the terminal, and the legend that explains them."""

from __future__ import annotations

import re
import string
from collections.abc import Iterator, Mapping, Sequence

_LETTERS = 3


def shortened(models: Sequence[str]) -> Iterator[Mapping[str, str]]:
    """Yield one or two mappings from the name of each model to a short name.

    In the first mapping, the short names are abbreviations, such as `res152` for `resnet152`. This mapping is left out
    if two models would have the same short name, or if no name would be shorter. In the last mapping, the short names
    are letters or numbers.
    """
    brief = {name: _brief(name) for name in models}
    if len(set(brief.values())) == len(brief) and set(brief.values()) != set(brief):
        yield brief
    marks = (
        string.ascii_uppercase if len(models) <= len(string.ascii_uppercase) else map(str, range(1, 1 + len(models)))
    )
    yield dict(zip(models, marks, strict=False))


def legend(names: Mapping[str, str]) -> str:
    """Return the legend of short names. Names that were not shortened are left out."""
    return ", ".join(f"{short} = {name}" for name, short in names.items() if short != name)


def _brief(name: str) -> str:
    """Return the first letters and the last number of a name; the name itself if this is not two characters shorter."""
    words, number = re.match(r"[A-Za-z]*", name), re.search(r"(\d+)\D*$", name)
    short = (words[0][:_LETTERS] if words else "") + (number[1] if number else "")
    return short if short and len(short) < len(name) - 1 else name
