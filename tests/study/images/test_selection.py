"""Who is let in, and which label an image is to reach."""

from __future__ import annotations

import numpy as np
import pytest

from study.images.selection import Clean, Selected, Shard, admitted, from_frame, ranked, to_frame


def image(**firsts):
    said = {name: Clean((first, 8, 9), (0.5, 0.3, 0.2)) for name, first in firsts.items()}
    return Selected("x", 1, 2, "d", said)


@pytest.mark.parametrize(
    ("keep", "expected"),
    [("all", True), ("correct-for-all", False), ("correct-for-sources", True), (("a", "b"), True), (("c",), False)],
)
def test_rules(keep, expected):
    assert admitted(image(a=1, b=1, c=7), keep, ["a"]) == expected


def test_ranks_are_those_of_a_naive_sort():
    draw = np.random.default_rng(0)
    for _ in range(20):
        probabilities = draw.integers(0, 5, 12) / 5
        label = int(draw.integers(12))
        order = sorted((index for index in range(12) if index != label), key=lambda one: (-probabilities[one], one))
        for rank in range(1, 12):
            assert ranked(probabilities, label, rank) == order[rank - 1]
        assert ranked(probabilities, label, "last") == order[-1]


def test_what_a_service_said_survives_the_file():
    said = Clean((), (), ("tabby", "cat"), (0.75, 0.25))
    shards = [Shard(0, (Selected("x", 1, 2, "d", {"service": said, "a": Clean((1, 2), (0.5, 0.25))}),))]
    assert from_frame(to_frame(shards)) == shards
