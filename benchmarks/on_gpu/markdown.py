"""Results as Markdown for `benchmarks/README.md`: the checks, the speeds, and what was not done."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from on_gpu.record import Line

_TIMED = ("speed", "more-speed")


def page(lines: Sequence[Line], title: str) -> str:
    """Return all tables as Markdown. `lines` hold one line for each case."""
    parts = [f"## {title}", *_checks(lines), *_faults(lines), *_goals(lines), *_speeds(lines), *_figures(lines)]
    return "\n".join([*parts, *_left_out(lines)]) + "\n"


def _table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> list[str]:
    body = [f"| {' | '.join(str(cell).replace('|', '/') for cell in row)} |" for row in rows]
    return ["", f"| {' | '.join(head)} |", f"| {' | '.join('---' for _ in head)} |", *body] if body else []


def _checks(lines: Sequence[Line]) -> list[str]:
    """Return a table with the numbers of passed, failed, skipped and cut-off checks in each step."""
    counts: dict[str, Counter[str]] = {}
    for line in lines:
        counts.setdefault(line.step, Counter())[line.outcome] += 1
    shown = ("passed", "failed", "skipped", "cut off")
    rows = [
        (step, *(found[one] or "" for one in shown))
        for step, found in counts.items()
        if any(found[one] for one in shown)
    ]
    return _table(("step", *shown), rows)


def _faults(lines: Sequence[Line]) -> list[str]:
    return _table(
        ("failed", "why"), [(f"{line.step}: {line.case}", line.why) for line in lines if line.outcome == "failed"]
    )


def _goals(lines: Sequence[Line]) -> list[str]:
    rows = [
        (line.case.removeprefix("goal: "), line.figures["is_"], "met" if line.figures["met"] else "missed")
        for line in lines
        if line.case.startswith("goal: ")
    ]
    return _table(("goal", "measured", ""), rows)


def _speeds(lines: Sequence[Line]) -> list[str]:
    """Return a table with one row for each case and each mode of this project's attacks."""
    rows = []
    for line in lines:
        if line.step not in _TIMED or "us_an_image_and_step" not in line.figures:
            continue
        found = line.figures
        taken: Mapping[str, float] = found["us_an_image_and_step"]
        for side, ours in taken.items():
            mode = side.removeprefix("ours, ")
            if mode == side:
                continue
            ahead = ", ".join(f"{peer} {ratios[mode]}x" for peer, ratios in found["ahead"].items() if mode in ratios)
            limit, ratio = taken.get(f"limit, {mode}", ""), found["times_limit"].get(mode, "")
            rows.append((line.case, mode, ours, limit, ratio, ahead, found["peak_mib"].get(side, ""), found["rounds"]))
    head = (
        "case",
        "mode",
        "ours, us an image and step",
        "bare passes",
        "ours / bare",
        "ahead of",
        "peak MiB",
        "rounds",
    )
    return _table(head, rows)


def _figures(lines: Sequence[Line]) -> list[str]:
    """Return a table of what the other steps measured."""
    rows = [
        (f"{line.step}: {line.case}", _text(line.figures))
        for line in lines
        if line.figures
        and line.step not in _TIMED
        and line.outcome in (("measured",) if line.step == "presets" else ("measured", "passed"))
    ]
    rows += [(f"{line.step}: {line.case}", _text(line.figures)) for line in lines if line.case == "success"]
    return _table(("measured", ""), rows)


def _text(figures: Mapping[str, Any]) -> str:
    return "; ".join(
        f"{name.replace('_', ' ')}: {_text(value) if isinstance(value, dict) else value}"
        for name, value in figures.items()
    )


def _left_out(lines: Sequence[Line]) -> list[str]:
    rows = [(f"{line.step}: {line.case}", line.why) for line in lines if line.outcome in ("skipped", "cut off")]
    return _table(("not done", "why"), rows)
