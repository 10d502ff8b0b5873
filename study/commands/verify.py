"""What `study verify` and `study compact` print."""

from __future__ import annotations

import json
from pathlib import Path

from rich.console import Console

from study.geometry.verify import check
from study.results.verify import VerificationReport, verify
from study.terminal.prose import say


def print_verified(run: Path, console: Console, as_json: bool = False) -> int:
    """Print what is found in a run, and return the exit status: 0 whole, 1 incomplete or damaged."""
    report = verify(run)
    check(report)
    if as_json:
        print(json.dumps(report.to_json(), indent=2))
        return 0 if report.whole else 1
    for line in lines(report):
        say(console, line)
    return 0 if report.whole else 1


def lines(report: VerificationReport) -> list[str]:
    """The report for people: what was read, every finding with where and what to do, the verdict last."""
    expected = "" if report.expected is None else f" of {report.expected:,}"
    probes = (
        "" if report.probes_expected is None else f", {report.probes:,} of {report.probes_expected:,} units of probes"
    )
    shown = [
        f"{report.run}: {report.parts:,} parts, {report.rows:,} rows, {report.units:,} units, "
        f"{report.pairs:,}{expected} (unit, target) pairs{probes}"
    ]
    for finding in report.findings:
        shown += [f"{finding.kind}: {finding.what}", f"  where: {finding.where}", f"  to do: {finding.todo}"]
    kinds = {finding.kind for finding in report.findings} - {"note"}
    shown.append("whole: everything is there, once, as it was written" if not kinds else " and ".join(sorted(kinds)))
    return shown
