"""Shows the state of a launch as lines of text that fit the width and the height of the terminal."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator

from rich.cells import cell_len, set_cell_size
from rich.text import Text

from study.events.observer import SlotState
from study.events.run_state import RunState, Tally

_MOST_SLOTS = 4
_LEAST_BAR = 8


def lines(state: RunState, width: int, height: int, *, ascii_only: bool = False) -> list[Text]:
    """Return the state of a launch as lines of text, the most important line first.

    There are at most `height` lines. A line has at most `width` cells (columns of the terminal), or 20 if `width` is
    smaller. With `ascii_only`, bars consist of ASCII characters.
    """
    width, height = max(width, 20), max(height, 1)
    found = [_head(state, width)]
    spare = height - 1
    if state.totals and spare > 0:
        bars = _experiments(state, width, max(1, min(len(state.totals), spare // 2)), ascii_only=ascii_only)
        found += bars
        spare -= len(bars)
    for more in (_rate(state), _trouble(state), *_slots(state, max(0, spare // 2)), *_last(state, width)):
        if more is not None and len(found) < height:
            found.append(more)
    for line in found:
        line.truncate(width, overflow="ellipsis")
        line.no_wrap = True
    return found[:height]


def duration(seconds: float) -> str:
    """Return a duration as text: `0:07`, `12:34`, `3:05:00`, `2 d 3:05:00`."""
    whole = max(0, round(seconds))
    days, rest = divmod(whole, 86_400)
    hours, rest = divmod(rest, 3600)
    minutes, rest = divmod(rest, 60)
    clock = f"{hours}:{minutes:02d}:{rest:02d}" if hours or days else f"{minutes}:{rest:02d}"
    return f"{days} d {clock}" if days else clock


def amount(number: float) -> str:
    """Return a number with about four digits: `0.05`, `1.2`, `88`, `5,760`, `1.2 M`."""
    if number >= 1e6:
        return f"{number / 1e6:,.1f} M"
    if number >= 10 or number == 0:
        return f"{number:,.0f}"
    return f"{number:.1f}" if number >= 1 else f"{number:.2f}"


def counted(number: float, one: str, many: str | None = None) -> str:
    """Return a count with its noun: `1 unit`, `3 units`, `0.5 GPUs`. A whole float has no decimal places."""
    digits = f"{number:,}" if isinstance(number, int) else f"{number:,g}"
    return f"{digits} {one if number == 1 else many or one + 's'}"


def _head(state: RunState, width: int) -> Text:
    text = Text(state.study, style="bold")
    elapsed = duration(state.elapsed)
    if not state.totals:
        return text.append(f"  {elapsed}  {state.phase}", style="not bold")
    text.append(f"  {math.floor(100 * state.share)} %", style="not bold green")
    left = state.seconds_left
    rest = [elapsed]
    if state.launched is not None:
        if state.phase == "crafting":
            rest.append("about " + duration(left) + " left" if left is not None else "time left: not known yet")
    else:
        rest.append(state.phase)
    return text.append("  " + ", ".join(rest), style="not bold")


def _experiments(state: RunState, width: int, most: int, *, ascii_only: bool) -> list[Text]:
    """Return a line with counts and a bar for each experiment.

    If there are more than `most` experiments, only some have a line: experiments in progress first, then experiments
    that have not begun. A last line then gives the number of the other experiments.
    """
    names = list(state.totals)
    shown = names
    if len(names) > most:
        under_way = [name for name in names if 0 < state.done[name] < state.totals[name]]
        order = dict.fromkeys([*under_way, *(name for name in names if not state.done[name]), *names])
        chosen = set(list(order)[: max(1, most - 1)])
        shown = [name for name in names if name in chosen]
    label = min(max(cell_len(name) for name in shown), max(10, width // 3))
    counts = {name: f"{state.done[name]:,}/{state.totals[name]:,}" for name in shown}
    numbers = max(len(one) for one in counts.values())
    room = width - label - numbers - 5
    found = []
    for name in shown:
        line = Text(f"  {_cut(name, label)}  {counts[name]:>{numbers}} ")
        if room >= _LEAST_BAR:
            line.append_text(_bar(state.done[name], state.totals[name], min(room, 40), ascii_only=ascii_only))
        found.append(line)
    hidden = len(names) - len(shown)
    if hidden:
        complete = sum(state.done[name] >= state.totals[name] for name in names if name not in shown)
        found.append(Text(f"  {counted(hidden, 'more experiment')}, {complete} of them complete", style="dim"))
    return found


def _bar(done: int, total: int, room: int, *, ascii_only: bool) -> Text:
    full = room if done >= total else int(room * done / max(total, 1))
    mark = ("#", ".") if ascii_only else ("━", "─")
    return Text(mark[0] * full, style="green").append(mark[1] * (room - full), style="bright_black")


def _rate(state: RunState) -> Text | None:
    if state.launched is None:
        return None
    rates = state.rates
    if not rates.units:
        return Text("  nothing is finished yet", style="dim")
    parts = ((rates.units, "units"), (rates.images, "images"), (rates.gradients, "gradients"))
    return Text("  " + ", ".join(f"{amount(rate)} {what}/s" for rate, what in parts))


def _trouble(state: RunState) -> Text | None:
    """Return a line with the number of failures so far; None if there are none."""
    said, loop = [], state.loop
    if state.set_aside:
        said.append(f"{state.set_aside:,} failed")
    if loop is not None:
        for count, what in (
            (loop.lost_actors, "lost actor"),
            (loop.failed_calls, "failed call"),
            (loop.repeated, "repeated call"),
        ):
            if count:
                said.append(counted(count, what))
    if not said:
        return None
    line = Text("  " + ", ".join(said), style="red" if state.set_aside else "yellow")
    return line.append(f"; last: {state.last_failure}" if state.last_failure else "", style="default")


def _slots(state: RunState, most: int) -> Iterator[Text]:
    """Yield a line on all actors together, and then a line for each actor.

    If there are more than four actors, or more than `most`, there are no lines for single actors. Instead, there is a
    line for each set of models, with the number of actors that hold these models in memory.
    """
    if state.loop is None or not state.loop.slots or most < 1:
        return
    slots = state.loop.slots
    waiting = state.loop.waiting_batches
    up = [slot for slot in slots if slot.up]
    busy = sum(slot.busy_share for slot in up) / max(len(up), 1)
    head = f"  {len(up)} of {counted(len(slots), 'actor')} up, {100 * busy:.0f} % at work"
    if waiting:
        head += f"; {counted(waiting, 'batch', 'batches')} waiting for targets"
    yield Text(head)
    if len(slots) <= min(_MOST_SLOTS, most):
        for slot in slots:
            yield _slot(slot)
        return
    groups = Counter((slot.role, slot.holds) if slot.up else ("", ()) for slot in slots)
    ordered = groups.most_common()
    for (_, holds), count in ordered[: max(0, most - 1)]:
        yield Text(f"    {count:>4,} x {' + '.join(holds) or 'nothing held yet'}")
    if len(ordered) > max(0, most - 1):
        yield Text(f"    {counted(len(ordered) - max(0, most - 1), 'more set')} of models", style="dim")


def _slot(slot: SlotState) -> Text:
    line = Text(f"    {slot.id:>3} {100 * slot.busy_share:>3.0f} %  ")
    if not slot.up:
        return line.append("starting", style="dim")
    line.append(f"{slot.doing or 'idle'}{': ' if slot.activity else ''}{slot.activity}")
    return line.append(f"  (holds {', '.join(slot.holds)})" if slot.holds else "", style="dim")


def _last(state: RunState, width: int) -> Iterator[Text]:
    last = state.last
    if not last:
        return
    yield Text("  last finished, % success so far (* white-box)", style="dim")
    for tally in last:
        yield _tally(tally, width)


def _tally(tally: Tally, width: int) -> Text:
    """Return a line such as `mi  lite0 targeted   lite0 100*  lite1 75  +3`: attack, sources, goal, and success rates.

    The line has the rates of the first targets that fit into `width` cells, then the number of all other targets.
    """
    goal = "" if tally.goal == "untargeted" else f" {tally.goal}"
    name = f"{tally.attack}  {tally.sources}{goal}"
    line = Text(f"    {_cut(name, max(16, width // 3))} ")
    entries = list(tally.targets.items())
    for index, (target, (hits, images)) in enumerate(entries):
        rate = f"{100 * hits / images:.0f}" if images else "–"
        entry = f" {target} {rate}{'*' if target in tally.white else ''}"
        more = f" +{len(entries) - index - 1}" if index + 1 < len(entries) else ""
        if line.cell_len + cell_len(entry) + len(more) > width:
            line.append(f" +{len(entries) - index}", style="dim")
            break
        line.append(entry)
    return line


def _cut(text: str, width: int) -> str:
    """Return `text` with exactly `width` cells (columns): padded with spaces, or cut and ended with an ellipsis."""
    return text + " " * (width - cell_len(text)) if cell_len(text) <= width else set_cell_size(text, width - 1) + "…"
