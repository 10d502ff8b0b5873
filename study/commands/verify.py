"""`study verify`: check that a run is complete and undamaged."""

from __future__ import annotations

import json

from rich.console import Console

from study.geometry.verify import check
from study.results.verify import VerificationReport, verify
from study.terminal.prose import exactly, say
from study.terminal.screen import counted


def print_verification(run: str, console: Console, *, as_json: bool) -> int:
    """Check the run at `run`, print the result, and return the exit status.

    The status is 0 if the run is complete and undamaged, else 1.
    """
    report = verify(run)
    check(report)
    if as_json:
        exactly(console, json.dumps(report.to_json(), indent=2))
    else:
        for line in lines(report):
            say(console, line)
    return 0 if report.whole else 1


def lines(report: VerificationReport) -> list[str]:
    """Return the report as lines of text: counts, then each problem with its place and what to do, then the verdict."""
    probes = ""
    if report.probes_expected is not None:
        probes = f", {report.probes:,} of {counted(report.probes_expected, 'probe unit')}"
    text = [f"{report.run}: {counted(report.parts, 'part')}, {_rows(report)}{probes}"]
    for finding in report.findings:
        text += [f"{finding.kind}: {finding.what}", f"  where: {finding.where}", f"  to do: {finding.todo}"]
    kinds = {finding.kind for finding in report.findings} - {"note"}
    text.append(" and ".join(sorted(kinds)) if kinds else "complete and undamaged")
    return text


def _rows(report: VerificationReport) -> str:
    """Return the numbers of rows, of units and of (unit, target) pairs as text, or that they were not counted."""
    if report.rows is None or report.units is None or report.pairs is None:
        return "rows were not counted"
    there = "" if report.expected is None else f"{report.pairs:,} of "
    pairs = report.pairs if report.expected is None else report.expected
    rows, units = counted(report.rows, "row"), counted(report.units, "unit")
    return f"{rows}, {units}, {there}{counted(pairs, '(unit, target) pair')}"
