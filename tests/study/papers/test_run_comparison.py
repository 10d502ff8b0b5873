"""A run is compared with every paper that the registry has, also where no number is comparable."""

from __future__ import annotations

import pytest

from study.papers import registry


@pytest.mark.parametrize("paper", registry.PAPERS)
def test_every_paper(paper, small, door):
    status, printed, error = door("compare", str(small[2]), "--paper", paper)
    assert status == 0, printed + error
    words = " ".join(printed.split())
    assert registry.PAPERS[paper].images in words
    assert registry.PAPERS[paper].title in words
