"""The beginning and the end of a report: what was run, with what, what failed, what is missing."""

from __future__ import annotations

import json
from collections.abc import Iterator

import polars as pl

from study import __version__
from study.analysis.intervals import wilson
from study.report import plausibility
from study.report.html.data import Gathered
from study.report.html.page import NOTHING, Cell, Room, Table, folded, note, text, words
from study.spec import yaml_document as documents

_MOST_FAILURES = 100


def alert(gathered: Gathered) -> str:
    """What stands at the top of a run that is not whole, or whose numbers are doubtful; nothing where all is well."""
    lines = [
        f"{name}: {have:,} of {planned:,} rows ({_share(have, planned)})"
        for name, (have, planned) in gathered.missing.items()
        if have < planned
    ]
    doubtful = [
        *plausibility.of_models(gathered.spec, gathered.finished.clean, gathered.finished.models),
        *plausibility.of_attacks(gathered.spec, gathered.cells),
    ]
    missing = bool(lines)
    if gathered.failures:
        count = len(gathered.failures)
        lines.append(f"The last launch set {count} unit{'s' if count > 1 else ''} aside: see Failures, below.")
    if not lines and not doubtful:
        return ""
    what = "These numbers are doubtful."
    if lines:
        what = "This run is not complete." if missing else "Something failed."
    lines += doubtful
    said = "".join(f"<p>{text(line)}</p>" for line in lines)
    return f'<div class="alert" role="note"><p><strong>{what}</strong></p>{said}</div>'


def _share(have: int, planned: int) -> str:
    # Not 100 % before it is so.
    return f"{min(99.9, 100 * have / planned):.1f} %" if have < planned else "100 %"


def facts(gathered: Gathered) -> str:
    """The run in numbers."""
    spec, cells, crafts = gathered.spec, gathered.cells, gathered.crafts
    versions = dict.fromkeys(one.get("version", "not recorded") for one in gathered.provenance)
    seeds = cells["seed"].n_unique()
    found = {
        "images": f"{gathered.finished.selected:,}",
        "models": f"{len(spec.models):,}",
        "experiments": f"{len(spec.experiments):,}",
        "crafts": f"{crafts.height:,}",
        "units": f"{gathered.units:,}",
        "rows": f"{gathered.count:,}",
        "image gradients": f"{int(crafts['gradients'].sum()):,}",
        "seeds": f"{seeds:,}",
        "failures": f"{len(gathered.failures):,}",
        "version of study": ", ".join(versions) or "–",
    }
    inside = "".join(f"<div><dt>{text(name)}</dt><dd>{text(said)}</dd></div>" for name, said in found.items())
    return f'<dl class="facts">{inside}</dl>'


def models(gathered: Gathered, room: Room) -> str:
    """What each model is, with the digest of its weights, and how often it is right on the clean images."""
    spec, lines = gathered.spec, []
    right = gathered.finished.clean
    for name, model in spec.models.items():
        known = gathered.finished.models.get(name, {})
        origin = model.network or ("a remote service" if model.remote is not None else model.model or "")
        shown = [str(known.get(key, "–")) for key in ("size", "parameters", "digest")]
        one = right.get(name)
        if one is not None and one.images:
            low, high = _wilson(one.right, one.images)
            tip = f"{one.right} of {one.images}; 95 %: {100 * low:.1f} to {100 * high:.1f}"
            clean = Cell(f"{100 * one.share:.1f}", one.share, tip)
        else:
            clean = NOTHING
        parameters = f"{int(shown[1]):,}" if shown[1].isdecimal() else shown[1]
        transform = (
            "" if model.transform is None else _short(model.transform.model_dump(mode="json", exclude_none=True))
        )
        lines.append(
            [
                *words(name, origin, str(model.weights or "–"), transform or "–"),
                Cell(shown[0], number=True),
                Cell(parameters, number=True),
                clean,
                Cell(shown[2][:16], tip=shown[2]),
            ]
        )
    head = ["model", "network", "weights", "transform", "input", "parameters", "clean top-1, %", "digest"]
    keep = spec.images.keep if isinstance(spec.images.keep, str) else ", ".join(spec.images.keep)
    notes = [
        f"Clean top-1: of all images that the clean pass asked about, before some were selected by `keep: {keep}`.",
        "Digest: of every tensor, the preprocessing and the order of classes.",
    ]
    return Table("Models", head, lines, notes=notes).html(room)


def _wilson(count: int, images: int) -> tuple[float, float]:
    low, high = wilson(pl.lit(count), pl.lit(images))
    ends = pl.select(low.alias("low"), high.alias("high")).row(0)
    return float(ends[0]), float(ends[1])


def _short(value: object) -> str:
    return json.dumps(value, ensure_ascii=False).replace('"', "")


def provenance(gathered: Gathered, room: Room) -> Iterator[str]:
    """What rows depend on beside their columns, as their parts record it; the spec; where the rows are."""
    lines = [
        [*words(number, key, said)]
        for number, one in enumerate(gathered.provenance, start=1)
        for key, said in one.items()
    ]
    if lines:
        notes = ["As the parts' metadata have it. Several sets: the run went on with another version, or elsewhere."]
        yield Table("Versions, hardware and numerics", ["set", "what", "value"], lines, notes=notes).html(room)
    yield note(f"This page: study {__version__}, from {gathered.run}")
    yield folded("The spec, resolved", f'<pre tabindex="0">{text(_spec_text(gathered))}</pre>')
    yield folded(
        "The rows, in polars",
        f'<pre tabindex="0">{text(polars(gathered, "rows.head().collect()"))}</pre>',
    )


def _spec_text(gathered: Gathered) -> str:
    """The spec without what it leaves open: a recipe has thirty keys, most of them null."""
    data = _without_none(gathered.spec.model_dump(mode="json"))
    return documents.dump(data)


def _without_none(value: object) -> object:
    if isinstance(value, dict):
        return {key: _without_none(inner) for key, inner in value.items() if inner not in (None, {}, [])}
    return [_without_none(one) for one in value] if isinstance(value, list) else value


def polars(gathered: Gathered, line: str) -> str:
    """Python that gives the whole of what a table shows a part of."""
    return (
        "from study import analysis\nfrom study.planning import resume\nfrom study.results import current_plan\n"
        "from study.storage.run_folder import RunFolder\n"
        f"rows = current_plan.rows({gathered.run!r})\nours = resume.spec_of(RunFolder({gathered.run!r}))\n{line}"
    )


def failures(gathered: Gathered, room: Room) -> str:
    """What the last launch set aside: unit, target, error."""
    lines = [
        words(one["unit"], one["target"] or "all of its targets", one["error"].strip())
        for one in gathered.failures[:_MOST_FAILURES]
    ]
    if not lines:
        return ""
    notes = []
    if len(gathered.failures) > _MOST_FAILURES:
        notes.append(f"The first {_MOST_FAILURES} of {len(gathered.failures):,}; all of them are in failures.json.")
    return Table("Set aside by the last launch", ["unit", "target", "error"], lines, notes=notes).html(room)
