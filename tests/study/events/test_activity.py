"""What a process is at, and how displays show it: while a launch starts, and inside a unit."""

from __future__ import annotations

import numpy as np

from study.attacks.loop import Engine, ImageBatch, craft
from study.attacks.presets import keys_of
from study.attacks.recipe import Attack
from study.events import activity
from study.events.activity import Activity
from study.events.observer import SlotState, State
from study.events.run_state import RunState
from study.terminal import screen
from study.terminal.lines import ProgressLines


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def test_words():
    here = Activity()
    assert here.text == ""
    here.expect(3)
    assert here.text == "", "no step is done yet"
    here.step()
    assert here.text == "step 1 of 3"
    with here.at("loading b"):
        assert here.text == "loading b"
    for _ in range(5):
        here.step()
    assert here.text == "step 3 of 3", "steps that are repeated for want of memory are not counted beyond"
    here.begin()
    assert here.text == ""


def test_an_attack_counts_the_steps_of_all_its_batches(small_model, small_images):
    heard: list[str] = []
    mine = Attack.model_validate(keys_of("mi", {"steps": 4, "epsilon": 8}))
    images = ImageBatch(small_images, np.zeros(6, np.int64), [str(number) for number in range(6)])
    engine = Engine(batch=2, max_pass_images=2)
    batches = -(-6 // engine.batch_size)
    assert batches > 1
    activity.here.begin()
    with activity.here.heard(lambda: heard.append(activity.here.text)):
        craft([small_model], mine, "untargeted", images, key=("k",), engine=engine)
    assert heard == [f"step {number} of {4 * batches}" for number in range(1, 4 * batches + 1)]


def slot(**changes) -> SlotState:
    return SlotState(0, "worker", True, ("b",), 1, "mi on b", 0.5, **changes)


def state(one: SlotState) -> State:
    return State([one], 0, 0, 0, 0, 0, 0, 0)


def test_lines_tell_the_step_and_what_a_launch_waits_for():
    clock, written = Clock(), []
    run = RunState("x", clock)
    lines = ProgressLines(written.append, run, clock)
    run.say("starting 1 worker")
    for clock.now in (5.0, 9.0, 11.0, 12.0, 22.0):
        lines.wait()
    assert written == [
        "starting 1 worker: 0:11 since the launch began",
        "starting 1 worker: 0:22 since the launch began",
    ]
    written.clear()
    run.begin({"one": 2})
    lines.begin({"one": 2})
    clock.now = 40.0
    event = state(slot(activity="step 34 of 100"))
    run.state(event)
    lines.state(event)
    assert written == ["0 %; one 0/2; mi on b: step 34 of 100"]
    shown = "\n".join(line.plain for line in screen.lines(run, 80, 24))
    assert "mi on b: step 34 of 100  (holds b)" in shown
    assert run.as_dict()["slots"][0]["activity"] == "step 34 of 100"
