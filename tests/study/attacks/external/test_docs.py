"""The examples of docs/external.md: the spec's attacks are attacks, and the function runs."""

from __future__ import annotations

import re

import numpy as np
import yaml

from study.attacks.external.run import run_external
from study.attacks.external.spec import External
from study.attacks.loop import Engine, ImageBatch
from tests.conftest import ROOT

PAGE = (ROOT / "docs" / "external.md").read_text()


def test_specs():
    (block,) = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    given = yaml.safe_load(block)["attacks"]
    found = {name: one for name, one in given.items() if one.keys() & {"external", "python"}}
    for one in found.values():
        one.pop("epsilon")
        External.model_validate(one)
    assert len(found) == 6
    assert External.model_validate(found["bim"]).arguments == {"abs_stepsize": 2 / 255, "steps": 10}


def test_the_function(tmp_path, source, second, clean):
    (text,) = (block for block in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL) if "def attack" in block)
    path = tmp_path / "mine.py"
    path.write_text(text)
    given = ImageBatch(clean[:3], np.array([1, 2, 3]), ["a", "b", "c"])
    for goal in ("untargeted", "targeted"):
        found = run_external(
            External.model_validate({"python": f"{path}:attack", "arguments": {"steps": 4}}),
            [source, second],
            given,
            goal,
            epsilon=8,
            key=("run",),
            engine=Engine(batch=2),
            allow_code=True,
        )
        moved = np.abs(found.pixels.astype(int) - clean[:3])
        assert (moved.max(), found.over_budget, found.notes) == (8, 0, ())
        assert (found.gradients, found.forwards) == (8, 8)
