"""What stands on the screen, at every width and height, from a board that was told made-up events."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from study.attacks.presets import keys_of
from study.attacks.recipe import Attack
from study.events.observer import Ended, SlotState, Started, State, UnitDone, UnitFailed
from study.events.run_state import RunState
from study.results.schema import PixelDistances, TargetAnswers, UnitResult
from study.terminal import screen


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def craft(name, experiments=("single",), sources=("lite0",)):
    recipe = Attack.model_validate(keys_of("fgsm", {}))
    return SimpleNamespace(
        id=f"{name}-0", sources=sources, attack=name, goal="untargeted", recipe=recipe, targets=("lite0", "lite1"),
        gradients=10, experiments=experiments, seed=0,
    )  # fmt: skip


def shard(images=4):
    return SimpleNamespace(images=[SimpleNamespace(label=1)] * images)


def done(one, fooled, seconds, images=4):
    """The unit of an attack run that has fooled some targets with so many of its images."""
    answers = [
        TargetAnswers(target, np.array([[0 if index < hits else 1] for index in range(images)]), np.ones((images, 1)))
        for target, hits in fooled.items()
    ]
    return UnitDone(unit(one), UnitResult(unit(one), PixelDistances.zeros(images), answers), seconds, 40)


def unit(one):
    return SimpleNamespace(id=f"{one.id}.0000-ab", craft=one, shard=shard(), targets=one.targets)


def slots(count, holds=("lite0", "lite1")):
    return [SlotState(index, "worker", True, holds, 1, "craft lite0", 0.9) for index in range(count)]


def state(actors=2, **changed):
    usual = {"waiting_crafts": 3, "waiting_batches": 0, "waiting_bytes": 0, "calls": 9, "failed_calls": 0,
             "lost_actors": 0, "repeated": 0}  # fmt: skip
    return State(slots=slots(actors), **(usual | changed))


def board(crafts=3, shards=4):
    clock = Clock()
    made = RunState("quickstart", clock)
    made.say("local Ray, 2 cores")
    made.begin({"clean pass": 6})
    made.end()
    ones = {f"a{index}-0": craft(f"a{index}") for index in range(crafts)}
    plan = SimpleNamespace(crafts=ones, shards=[shard() for _ in range(shards)])
    total = crafts * shards
    made.started(Started(plan, "runs/x", {}, {"single": total}, {"single": 0}, total, 2, "cpu", "local Ray"))
    made.begin({"single": total}, {"single": 0})
    return made, clock, list(ones.values())


def text(made, width=80, height=24, **how):
    return [line.plain for line in screen.lines(made, width, height, **how)]


def test_rates_and_the_rest():
    made, clock, crafts = board()
    made.state(state())
    for second in range(1, 7):
        clock.now = second * 2.0
        made.finished(done(crafts[0], {"lite0": 4, "lite1": 1}, 1.5))
        made.advance(["single"])
    assert made.rates.units == pytest.approx(0.5)
    assert made.rates.gradients == pytest.approx(20)
    assert made.seconds_left == pytest.approx(12.0)
    assert made.left == 6
    assert made.seconds_crafting == 9.0
    head, bar, rate, up, *rest = text(made)
    assert head == "quickstart  50 %  0:12, about 0:12 left"
    assert "6/12" in bar
    assert rate == "  0.50 units/s, 2.0 images/s, 20 gradients/s"
    assert up == "  2 of 2 actors up, 90 % at work"
    assert any(line.split() == ["a0", "lite0", "lite0", "100*", "lite1", "25"] for line in rest)


def test_a_resumed_launch_goes_by_what_is_left():
    made, clock, crafts = board()
    made.started(Started(made.launched.plan, "", {}, {"single": 12}, {"single": 9}, 3, 2, "cpu", ""))
    made.begin({"single": 12}, {"single": 9})
    clock.now = 10.0
    made.finished(done(crafts[0], {"lite0": 4}, 1.5))
    assert made.left == 2
    assert made.seconds_left == pytest.approx(20.0)


@pytest.mark.parametrize("width", [20, 40, 60, 80, 100, 200])
@pytest.mark.parametrize("height", [1, 2, 3, 5, 8, 12, 24, 60])
def test_fits(width, height):
    made, clock, crafts = board(crafts=30)
    made.begin({f"an experiment of a long name {index}": 40 for index in range(25)})
    made.state(state(actors=64, failed_calls=2, lost_actors=1))
    clock.now = 5.0
    for one in crafts:
        made.finished(done(one, {"lite0": 4, "lite1": 1}, 1.5))
    made.failed(UnitFailed(unit(crafts[0]), "lite1", "out of memory " * 30 + "\nmore"))
    lines = screen.lines(made, width, height)
    assert 1 <= len(lines) <= height
    assert all(line.cell_len <= width for line in lines)
    assert not any("\n" in line.plain for line in lines)
    assert lines[0].plain.startswith("quickstart")
    if height >= 12 and width >= 40:
        joined = "\n".join(line.plain for line in lines)
        assert "1 failed, " in joined
        assert ("more experiments" in joined) == (height < 50)
        assert "64 x lite0" in joined


def test_many_targets_are_counted_where_they_do_not_fit():
    made, clock, crafts = board()
    clock.now = 1.0
    crafts[0].targets = tuple(f"target-{index}" for index in range(40))
    made.finished(done(crafts[0], dict.fromkeys(crafts[0].targets, 2), 1.0))
    (line,) = [line for line in text(made, 60) if "target-0" in line]
    shown = line.count("target-")
    assert line.endswith(f"+{40 - shown}")
    assert len(line) <= 60


def test_wide_characters_and_ascii():
    made, _, _ = board()
    made.begin({"実験" * 20: 10})
    assert all(line.cell_len <= 60 for line in screen.lines(made, 60, 24))
    assert "####" in "".join(text(made, 60, ascii_only=True)) or "...." in "".join(text(made, 60, ascii_only=True))


def test_the_end_and_before_the_beginning():
    made = RunState("x", Clock())
    assert text(made, 60) == ["x  0:00  starting actors"]
    made.say("reading")
    assert text(made, 60) == ["x  0:00  reading"]
    made.ended(Ended(1, 3, 1, 9.0))
    assert made.phase == "incomplete"


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0, "0:00"), (59.6, "1:00"), (3599, "59:59"), (3600, "1:00:00"), (90_000, "1 d 1:00:00"), (-3, "0:00")],
)
def test_durations(seconds, shown):
    assert screen.duration(seconds) == shown


@pytest.mark.parametrize(
    ("number", "shown"), [(0, "0"), (0.051, "0.05"), (1.24, "1.2"), (88.4, "88"), (5760, "5,760"), (1.25e6, "1.2 M")]
)
def test_amounts(number, shown):
    assert screen.amount(number) == shown
