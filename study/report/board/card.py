"""Makes the protocol card of a run: one page with everything that is needed to repeat or to question the run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from study.analysis.intervals import interval_of_rate
from study.attacks.recipe import Attack
from study.defences.transforms import summary
from study.report.board.lines import BoardTable, Entry, Line, board_tables
from study.report.board.page import CORRECT, MEAN, BoardPart, page
from study.report.board.protocol import facts, model_digest
from study.report.html.components import HtmlTable, text_cells
from study.report.wording import SUCCESS_RATE, fixed
from study.spec.schema import Spec

_SHORT = 16
_TOLD = ("budget", "steps", "step_size", "checkpoints", "made", "tune", "external")
"""The keys of a recipe that the column `parts` leaves out, because they are not parts or have their own column."""
_USUAL = {"objective": "cross-entropy", "fusion": "probability", "step": "sign", "scales": 1}
"""The usual values of parts. The column `parts` leaves them out. A note below the table names them, except `scales`."""


def card_tables(entry: Entry) -> list[HtmlTable]:
    """Return the tables of the card: protocol, models, attacks, and the results of each experiment and goal."""
    known = facts(entry)
    kept = {name: value for name, value in known.items() if name not in ("targets", "sources")}
    images = entry.data.spec.images
    kept["images"] += f", seed {entry.data.spec.seed}" + (f", sample {images.sample}" if images.sample else "")
    return [
        HtmlTable("Protocol", ["", "of this run"], [text_cells(name, value) for name, value in kept.items()]),
        _models(entry),
        _attacks(entry.data.spec),
        *(_results(table) for table in board_tables([entry])),
    ]


def card_markdown(entry: Entry) -> str:
    """Return the card as Markdown."""
    lines = [f"# {entry.data.spec.study}: protocol card", ""]
    for table in card_tables(entry):
        lines += [f"## {table.title}", "", _piped(table.head), _piped(["---"] * len(table.head))]
        lines += [_piped([cell.text for cell in row]) for row in table.rows]
        lines += ["", *(f"{note}  " for note in table.notes), ""]
    return "\n".join(lines)


def card_html(entry: Entry) -> str:
    """Return the card as one HTML file."""
    tables = card_tables(entry)
    counts = {
        "images": f"{entry.data.selected:,}",
        "models": f"{len(entry.data.spec.models):,}",
        "attacks": f"{len(tables[2].rows):,}",
        "gradients": facts(entry)["gradients"].partition(" ")[0],
    }
    parts = [BoardPart(f"card-{place}", table.title, [table]) for place, table in enumerate(tables)]
    return page(f"{entry.data.spec.study}: protocol card", counts, None, parts)


def _models(entry: Entry) -> HtmlTable:
    spec = entry.data.spec
    sources = set(spec.sources())
    targets = {target for one in spec.experiments.values() for target in spec.targets(one)}
    rows = []
    for name, model in spec.models.items():
        role = " and ".join(role for role, used in (("source", name in sources), ("target", name in targets)) if used)
        behind = "" if model.transform is None else summary(model.transform)
        made = model.network or (f"service {model.remote.address}" if model.remote else f"{model.model}")
        right = entry.data.clean.get(name)
        clean = "–"
        if right is not None and right.images:
            low, high = interval_of_rate(right.right, right.images)
            clean = f"{fixed(100 * right.share, 1)} [{fixed(100 * low, 1)}, {fixed(100 * high, 1)}]"
        weights = model.weights or "–"
        rows.append(
            text_cells(
                name, made, _bare(weights), behind or "–", role or "–", clean, model_digest(entry, name)[:_SHORT]
            )
        )
    head = ["model", "network", "weights", "defence", "role", "clean, %", "digest"]
    notes = [
        "Clean: top-1 accuracy on all images of the clean pass, with its 95 % interval (Wilson).",
        "Digest: of all tensors, the preprocessing and the order of the classes.",
    ]
    return HtmlTable("Models", head, rows, notes=notes)


def _bare(weights: str) -> str:
    """Return a model's weights as text, without the folder of their file. The digest identifies the content."""
    kind, _, value = weights.partition(":")
    return f"{kind}:{value.rpartition('/')[2]}" if kind in ("file", "set") else weights


def _attacks(spec: Spec) -> HtmlTable:
    used = dict.fromkeys(name for one in spec.experiments.values() for name in one.attacks)
    numbers = {len(sources) for one in spec.experiments.values() for sources in spec.source_sets(one) if sources}
    rows = []
    for name in used:
        recipe = spec.attacks[name]
        budget = recipe.budget
        levels = [level for level in budget.levels if level is not None]
        length = "–" if not levels else f"{levels[0]:g}" + (f" to {levels[-1]:g}" if len(levels) > 1 else "")
        counts = sorted({recipe.gradients(recipe.steps, sources) for sources in numbers})
        cost = " to ".join(f"{one:,}" for one in dict.fromkeys((counts[0], counts[-1]))) if counts else "–"
        kind = f"RMSD of {budget.to}" if budget.to else f"{budget.kind} {length}"
        rows.append(text_cells(name, ", ".join(_parts(recipe)) or "–", kind, recipe.steps, cost))
    head = ["attack", "parts", "budget, pixel values", "steps", "gradients of one image"]
    notes = [
        "Unless the column of parts says otherwise, the loss is cross-entropy, the probabilities of several sources "
        "are averaged, and steps follow the sign of the gradient."
    ]
    return HtmlTable("Attacks", head, rows, notes=notes)


def _parts(recipe: Attack) -> Iterator[str]:
    """Yield each part of an attack as text: its key and its values. Parts with usual values are left out."""
    if recipe.external is not None:
        yield f"external: {_words(recipe.external.model_dump(mode='json'))}"
        return
    for key, value in recipe.plain().items():
        if key in _TOLD or not value or value == _USUAL.get(key):
            continue
        if key == "first" and recipe.first is not None:
            yield f"first stage of {recipe.first.steps} steps ({', '.join(_parts(recipe.first)) or 'plain'})"
        else:
            yield f"{key.replace('_', ' ')} {_words(value)}"


def _words(value: object) -> str:
    """Return a value of a recipe as text. Keys whose value is null or empty are left out."""
    if isinstance(value, dict):
        set_ = {key: one for key, one in value.items() if one not in (None, [], {})}
        return ", ".join(f"{key} {_words(one)}" for key, one in set_.items())
    if isinstance(value, list):
        return "; ".join(map(_words, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def _results(table: BoardTable) -> HtmlTable:
    rows = []
    for line in table.lines:
        mean = "–" if line.mean is None else fixed(100 * line.mean, 1)
        if line.mean is not None and line.low is not None and line.high is not None:
            mean += f" [{fixed(100 * line.low, 1)}, {fixed(100 * line.high, 1)}]"
        correct = "–" if line.correct_mean is None else fixed(100 * line.correct_mean, 1)
        gradients = "–" if line.gradients is None else f"{line.gradients:,.0f}"
        ssim = line.visible["ssim"]
        seen = "–" if ssim is None else f"{ssim:.3f}"
        hardest, easiest = _extremes(line)
        sources = line.sources.replace("+", " + ")
        rows.append(text_cells(line.attack, sources, mean, correct, hardest, easiest, gradients, seen))
    head = ["attack", "sources", "mean, %", "correct, %", "hardest target", "easiest target", "gradients", "SSIM"]
    notes = [f"{SUCCESS_RATE[table.goal]}.", f"{MEAN}.", f"{CORRECT}."]
    return HtmlTable(f"{table.experiment}, {table.goal}", head, rows, notes=notes)


def _extremes(line: Line) -> tuple[str, str]:
    """Return the black-box targets with the lowest and the highest rate, as texts; "–" without black-box targets."""
    black = sorted((cell["success"], name) for name, cell in line.rates.items() if cell["relation"] == "black")
    if not black:
        return "–", "–"
    shown = [f"{name} {fixed(100 * rate, 1)}" for rate, name in (black[0], black[-1])]
    return shown[0], shown[1]


def _piped(cells: Sequence[str]) -> str:
    escaped = (cell.replace("|", "\\|").replace("\n", " ") for cell in cells)
    return f"| {' | '.join(escaped)} |"
