"""Whether the rows of a run's probes are whole: parts as they were written, every unit there, once."""

from __future__ import annotations

import json

import polars as pl

from study.errors import StudyError, first_line
from study.geometry.plan import GeometryPlan
from study.geometry.schema import SCHEMAS, VERSION
from study.geometry.spec import Kind
from study.planning import resume
from study.results import integrity
from study.results.verify import VerificationReport, add_strays, read_part
from study.storage import part_file
from study.storage.paths import StoragePath
from study.storage.run_folder import RunFolder

_MOVE = integrity.advice("geometry")


def check(report: VerificationReport) -> None:
    """Add to `report` what is wrong with the rows of probes, if the spec of its run can be read and has any."""
    folder = RunFolder(report.run)
    try:
        spec = resume.spec_of(folder)
        selected = resume.as_it_lies(folder) if folder.begun else None
    except (StudyError, OSError):
        # `study.results.verify` has said what is wrong with them.
        return
    if not spec.geometry or selected is None:
        return
    units = {name: _units(folder, name, probe.probe, report) for name, probe in spec.geometry.items()}
    try:
        plan = GeometryPlan(spec, {name: one["digest"] for name, one in selected.models.items()}, selected.shards)
    except (StudyError, KeyError) as error:
        report.add("damaged", f"the plan of the probes cannot be made: {first_line(error)}", folder.path, _MOVE)
        return
    wanted = [unit.id for unit in plan.units()]
    there = {one for found in units.values() for one in found}
    report.probes, report.probes_expected = len(there & set(wanted)), len(wanted)
    missing = [one for one in wanted if one not in there]
    if missing:
        what = f"{len(missing)} of {len(wanted)} units of probes have no rows"
        report.add("incomplete", what, f"such as {missing[0]}", "launch the study again: what is missing is run again")


def _units(folder: RunFolder, name: str, kind: Kind, report: VerificationReport) -> set[str]:
    """The units of a probe that have rows. Parts that cannot be read, or hold what others hold, are reported."""
    place = folder.geometry(name)
    add_strays(place, "geometry/", report)
    holders: dict[str, StoragePath] = {}
    for path in part_file.list_parts(place):
        found = _read(path, kind, report)
        for unit in [] if found is None else found:
            if unit in holders:
                both = f"{holders[unit]} and {path}: unit {unit}"
                report.add("damaged", "a unit of a probe is there twice", both, "move one of them out of geometry/")
            holders.setdefault(unit, path)
    return set(holders)


def _read(path: StoragePath, kind: Kind, report: VerificationReport) -> list[str] | None:
    """The units in a part; None where it cannot be read."""
    rows = read_part(path, VERSION, report, _MOVE)
    if rows is None:
        return None
    if rows.column_names != SCHEMAS[kind].names:
        report.add("damaged", f"its columns are not those of {json.dumps(kind)}", path, _MOVE)
        return None
    units: list[str] = pl.DataFrame(rows.select(["unit"])).get_column("unit").unique().sort().to_list()
    return units
