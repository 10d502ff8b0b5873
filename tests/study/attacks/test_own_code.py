"""Messages on the parameters of components."""

from __future__ import annotations

from typing import Annotated, ClassVar

import pytest
from pydantic import Field, model_validator

from study.attacks import own_code
from study.attacks.kinds import View
from study.attacks.part import Part
from study.errors import StudyError


class Own(View):
    name: ClassVar[str] = "own"
    share: Annotated[float, Field(ge=0, le=1)]
    sizes: Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(strict=False)] | int = ()

    @model_validator(mode="after")
    def _fits(self):
        if self.share == 0.5:
            raise ValueError("a share of one half is no share")
        return self


@pytest.mark.parametrize(
    ("given", "what", "accepted"),
    [
        ({"share": 2}, "own.py:Own: share cannot be 2", "less than or equal to 1"),
        ({"share": "many"}, "own.py:Own: share cannot be 'many'", "a valid number"),
        ({"share": 1, "sizes": "no"}, "own.py:Own: sizes cannot be 'no'", "a valid tuple; or a valid integer"),
        (
            {"share": 1, "sizes": [1, 0]},
            "own.py:Own: sizes cannot hold 0, so it cannot be [1, 0]",
            "greater than or equal to 1; or a valid integer",
        ),
        ({"share": 1, "shar": 1}, "own.py:Own has no parameter 'shar'", "share (the nearest), sizes"),
        ({"sizes": 1}, "own.py:Own needs the parameter 'share'", "share, sizes"),
        ({"share": 0.5}, "own.py:Own: a share of one half is no share", None),
    ],
)
def test_what_is_said_of_a_parameter(given, what, accepted):
    part = Part(kind="view", python="own.py:Own", parameters=given)
    with pytest.raises(StudyError) as refused:
        own_code.made(part, Own, "attacks.mine")
    error = refused.value
    assert (error.what, error.where, error.accepted) == (what, "attacks.mine", accepted)


def test_right_parameters_make_the_component():
    part = Part(kind="view", name="own", parameters={"share": 1, "sizes": [3]})
    assert own_code.made(part, Own, "attacks.mine") == Own(share=1, sizes=(3,))
