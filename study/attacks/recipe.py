"""An attack as data: which parts the one loop puts together, with their numbers.

All lengths are in pixel values, 0..255. A recipe says nothing of models, images or goals: it is what a spec names.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from study.frozen import Frozen

Goal = Literal["untargeted", "targeted"]
Objective = Literal["cross-entropy", "log(1-p)"]
Fusion = Literal["probability", "logit", "loss", "summed-updates"]
Step = Literal["sign", "l2", "adam"]
Match = Literal["image", "mean"]

Positive = Annotated[float, Field(gt=0, le=1e6, allow_inf_nan=False)]


class Budget(Frozen):
    """How far an image may move. Exactly one of `epsilon` and `rmsd`, or neither: then only the pixel box binds.

    `rmsd: matched` takes the RMSD of the attack `to` on the same sources and goal: image by image
    (`by: image`), or its mean over all images for every image (`by: mean`), as Liu et al. 2017 compare attacks.
    """

    epsilon: Annotated[float, Field(gt=0, le=255)] | None = None
    rmsd: Annotated[float, Field(gt=0, le=255)] | Literal["matched"] | None = None
    to: str | None = None
    by: Match = "image"

    @model_validator(mode="after")
    def _one_kind(self) -> Budget:
        if self.epsilon is not None and self.rmsd is not None:
            raise PydanticCustomError("budget", "a budget is epsilon or rmsd, and this has both")
        if (self.rmsd == "matched") != (self.to is not None):
            raise PydanticCustomError(
                "budget", "`rmsd: matched` and `to: <an attack>` belong together, and one is missing"
            )
        return self

    @property
    def matched(self) -> bool:
        return self.rmsd == "matched"


class Attack(Frozen):
    """One recipe for the loop in `study.attacks.loop`; the parts' own modules say what each choice computes."""

    objective: Objective = "cross-entropy"
    fusion: Fusion = "probability"
    momentum: Annotated[float, Field(ge=0, le=100)] = 0.0
    step: Step = "sign"
    step_size: Positive | None = None
    learning_rate: Positive | None = None
    steps: Annotated[int, Field(ge=1, le=100_000)] = 10
    budget: Budget = Budget()

    @model_validator(mode="before")
    @classmethod
    def _shorthand(cls, given: Any) -> Any:
        """`epsilon: 16` stands for `budget: {epsilon: 16}`, and `budget: none` for no budget."""
        if not isinstance(given, dict):
            return given
        given = dict(given)
        if "epsilon" in given:
            if "budget" in given:
                raise PydanticCustomError("budget", "epsilon and budget say the same thing twice: keep one")
            given["budget"] = {"epsilon": given.pop("epsilon")}
        if given.get("budget", ...) in (None, "none"):
            given["budget"] = {}
        return given

    @model_validator(mode="after")
    def _parts_fit(self) -> Attack:
        if self.step == "adam" and self.step_size is not None:
            raise PydanticCustomError("parts", "an Adam step has a learning_rate, not a step_size")
        if self.step == "adam" and self.learning_rate is None:
            raise PydanticCustomError("parts", "an Adam step needs a learning_rate (Liu et al. use 4)")
        if self.step != "adam" and self.learning_rate is not None:
            raise PydanticCustomError("parts", "a learning_rate belongs to `step: adam`; use step_size")
        if self.step != "adam" and self.step_size is None and self.budget == Budget():
            raise PydanticCustomError("parts", "without a budget, a sign or l2 step needs a step_size")
        return self
