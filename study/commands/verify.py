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
    there = "" if report.expected is None else f"{report.pairs:,} of "
    pairs = report.pairs if report.expected is None else report.expected
    shown = f"{there}{counted(pairs, '(unit, target) pair')}"
    probes = ""
    if report.probes_expected is not None:
        probes = f", {report.probes:,} of {counted(report.probes_expected, 'probe unit')}"
    counts = ", ".join(
        counted(number, what) for number, what in ((report.parts, "part"), (report.rows, "row"), (report.units, "unit"))
    )
    text = [f"{report.run}: {counts}, {shown}{probes}"]
    for finding in report.findings:
        text += [f"{finding.kind}: {finding.what}", f"  where: {finding.where}", f"  to do: {finding.todo}"]
    kinds = {finding.kind for finding in report.findings} - {"note"}
    text.append(" and ".join(sorted(kinds)) if kinds else "complete and undamaged")
    return text
