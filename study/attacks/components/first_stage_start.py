"""A start at the finished images of the attack's first stage."""

from __future__ import annotations

from typing import ClassVar

from study.attacks.kinds import Start
from study.attacks.registry import register


@register
class FirstStageStart(Start):
    """A start at the finished images of the attack's `first` stage. The attack then changes these images further."""

    name: ClassVar[str] = "first-stage"
    uses_first: ClassVar[bool] = True
    at_first: ClassVar[bool] = True
