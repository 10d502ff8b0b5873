"""Verification of probes' rows: all parts are intact, and every unit has rows in exactly one part."""

from __future__ import annotations

import json

import polars as pl

from study.errors import StudyError, first_line
from study.geometry.plan import GeometryPlan
from study.geometry.schema import SCHEMAS, VERSION
from study.geometry.spec import Kind
from study.planning import resume
from study.results import integrity, versions
from study.results.verify import Report, table
from study.storage.places import Place
from study.storage.run_folder import RunFolder

_MOVE = "move it out of geometry/ and launch the study again: its units run again"


def check(report: Report) -> None:
    """Add the errors in the rows of probes to `report`, if its run has a readable spec with probes."""
    folder = RunFolder(report.run)
    try:
        spec = resume.spec_of(folder)
        selected = resume.as_it_lies(folder) if folder.begun else None
    except (StudyError, OSError):
        # `study.results.verify` has reported the error.
        return
    if not spec.geometry or selected is None:
        return
    units = {name: _units(folder, name, probe.probe, report) for name, probe in spec.geometry.items()}
    try:
        plan = GeometryPlan(spec, {name: one["digest"] for name, one in selected.models.items()}, selected.shards)
    except (StudyError, KeyError) as error:
        report.add("damaged", f"probes cannot be planned: {first_line(error)}", folder.path, _MOVE)
        return
    wanted = [unit.id for unit in plan.units()]
    there = {one for found in units.values() for one in found}
    report.probes, report.probes_expected = len(there & set(wanted)), len(wanted)
    missing = [one for one in wanted if one not in there]
    if missing:
        what = f"{len(missing)} of {len(wanted)} units of probes have no rows"
        report.add("incomplete", what, f"such as {missing[0]}", "launch the study again: it runs the missing units")


def _units(folder: RunFolder, name: str, kind: Kind, report: Report) -> set[str]:
    """The units of a probe with rows. Report parts that are unreadable or repeat a unit of another part."""
    place = folder.geometry(name)
    others = integrity.strays(place)
    if others:
        report.add("note", integrity.stray_line(others), place, "move files that you do not need out of geometry/")
    holders: dict[str, Place] = {}
    for path in integrity.parts(place):
        found = _read(path, kind, report)
        for unit in [] if found is None else found:
            if unit in holders:
                both = f"{holders[unit]} and {path}: unit {unit}"
                report.add(
                    "damaged", "two parts have the same unit of a probe", both, "move one of them out of geometry/"
                )
            holders.setdefault(unit, path)
    return set(holders)


def _read(path: Place, kind: Kind, report: Report) -> list[str] | None:
    """The units in a part; None if it is unreadable."""
    named = versions.read_name(path.name)
    if named is not None and named.version > VERSION:
        what = f"it has version {named.version}, and this study reads versions up to {VERSION}"
        report.add("damaged", what, path, "verify it with the version of study that wrote it")
        return None
    rows = table(path, None if named is None else named.digest, report, _MOVE)
    if rows is None:
        return None
    if rows.column_names != SCHEMAS[kind].names:
        report.add("damaged", f"its columns are not the columns of a probe of {json.dumps(kind)}", path, _MOVE)
        return None
    units: list[str] = pl.DataFrame(rows.select(["unit"])).get_column("unit").unique().sort().to_list()
    return units
