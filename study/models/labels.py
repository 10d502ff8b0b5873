"""ImageNet's label set: the index of a WordNet id, as ILSVRC 2012 and all three zoos order them."""

from __future__ import annotations

import functools
import importlib.util
from pathlib import Path


@functools.cache
def wordnet_ids() -> tuple[str, ...]:
    """The 1,000 WordNet ids by label index, read from timm's list without importing timm."""
    found = importlib.util.find_spec("timm")
    assert found is not None, "timm is a dependency of study"
    assert found.submodule_search_locations, "timm is a package"
    listed = Path(found.submodule_search_locations[0]) / "data" / "_info" / "imagenet_synsets.txt"
    ids = tuple(listed.read_text(encoding="utf-8").split())
    assert len(ids) == 1000, f"{listed} names {len(ids)} labels, not ImageNet's 1,000"
    return ids


@functools.cache
def index_of() -> dict[str, int]:
    """Label index by WordNet id."""
    return {wordnet_id: index for index, wordnet_id in enumerate(wordnet_ids())}
