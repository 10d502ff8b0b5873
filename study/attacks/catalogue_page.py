"""Generate docs/attacks.md, the catalogue of attacks, from the presets: `python -m study.attacks.catalogue_page`."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

from study.attacks import presets
from study.attacks.assembly import Assembly
from study.attacks.component import Component
from study.attacks.presets import Preset
from study.attacks.recipe import Attack

PAGE = Path(__file__).resolve().parent.parent.parent / "docs" / "attacks.md"

_HEAD = """# The attacks

`python -m study.attacks.catalogue_page` generates this page from the presets in `study/attacks/preset_files/`; a test
keeps it up to date. `study attacks NAME` prints all numbers of one preset, and `+` joins presets: `mi+di+sgm`.

*Gradients* is the number of gradients of one image per source model in the preset's steps; *forwards* is the number of
further forward passes. Random numbers are keyed by image, step and copy: an image's result never depends on the other
images of its batch. All presets also run on several source models, whose gradients `fusion` combines.

In formulas, x is the clean image, d the perturbation, J or L the loss that the attack maximises, and dJ its gradient.
g(v) is the gradient at v, and g alone is the gradient at x + d. Where a formula assigns to g, g is the accumulated
gradient. y is the true label, t the target label or the step index, z the logits, p the probabilities, f the features
of a layer. T is the number of steps, K the number of source models, a the length of a step, eps the budget epsilon.
n(v) is v divided by its mean absolute value, |v|_2 the L2 norm, (v)+ is max(v, 0), <u, v> the inner product. A star is
the product of elements or, with a kernel W, a convolution. U(±a) and U(a, b) are uniform noise, N(0, s) is normal noise
with standard deviation s. Pixel values are 0..255.

"""


def generated() -> str:
    """Return the text of the page."""
    found = presets.presets()
    lines = [_HEAD, "| preset | paper | parts | gradients | forwards |", "| --- | --- | --- | ---: | ---: |"]
    for name, one in found.items():
        attack = Attack.model_validate(presets.keys_of(name, {}))
        cost = attack.gradients(attack.steps, 1), attack.forwards(attack.steps, 1)
        parts = ", ".join(dict.fromkeys(part.name for part in _telling(attack.assembly))) or "the gradient alone"
        lines.append(
            f"| [{name}](#{_anchor(_heading(name, one))}) | {one.paper} | {parts} | {cost[0]:,} | {cost[1] or ''} |"
        )
    lines.append("")
    for name, one in found.items():
        lines += _section(name, one)
    lines += _combinations()
    return "\n".join(lines)


def _section(name: str, one: Preset) -> Iterator[str]:
    attack = Attack.model_validate(presets.keys_of(name, {}))
    yield f"## {_heading(name, one)}"
    yield ""
    yield f"{_link(one)}{f', {one.equation}' if one.equation else ''}. {_sentence(one.source)}"
    yield ""
    if one.formula:
        yield "```text"
        yield one.formula.strip()
        yield "```"
        yield ""
    for part in _telling(attack.assembly):
        yield f"- {part.kind} `{part.name}`{_parameters(part)}: {_first_line(type(part))}"
    if attack.first is not None:
        yield f"- first stage of {attack.first.steps} steps: {_listed(attack.first.assembly)}"
    sources = " (on one source model)" if attack.assembly.ensemble.cost(2) != 2 else ""
    forwards = attack.forwards(attack.steps, 1)
    beside = f", and {forwards:,} further forward passes" if forwards else ""
    yield f"- cost: {attack.gradients(attack.steps, 1):,} gradients in {attack.steps:,} steps{sources}{beside}"
    if one.differs:
        yield f"- in the paper or in other code: {_sentence(one.differs)}"
    if one.oracle:
        yield f"- tested against: {_sentence(one.oracle)}"
    yield ""


def _combinations() -> Iterator[str]:
    yield "## Combinations that papers report"
    yield ""
    for name, source in presets.combinations().items():
        yield f"- `{name}`: {_sentence(source)}"
    yield ""


def _telling(assembly: Assembly) -> Iterator[Component]:
    """Yield the components that distinguish an attack from other attacks.

    The budget and the most usual objective, ensemble rule and step are left out.
    """
    usual = {("objective", "cross-entropy"), ("ensemble", "probability"), ("step", "sign")}
    yield from (one for one in assembly if one.kind != "budget" and (one.kind, one.name) not in usual)


def _listed(assembly: Assembly) -> str:
    return ", ".join(f"{part.kind} `{part.name}`" for part in _telling(assembly)) or "the gradient alone"


def _parameters(part: Component) -> str:
    values = part.model_dump(mode="json")
    shown = ", ".join(f"{key} {_value(value)}" for key, value in values.items() if value not in (None, {}, []))
    return f" ({shown})" if shown else ""


def _value(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _first_line(component: type[Component]) -> str:
    return _sentence((component.__doc__ or component.name).strip().split("\n\n")[0].replace("\n", " "))


def _sentence(text: str) -> str:
    """Return the text on one line, with a full stop at the end."""
    text = re.sub(r"\s+", " ", text).strip()
    return text if text.endswith((".", "!", "?")) else f"{text}."


def _link(one: Preset) -> str:
    number = one.link.removeprefix("arXiv:")
    where = f"https://arxiv.org/abs/{number}" if one.link.startswith("arXiv:") else one.link
    title = f"{one.paper}, *{one.title}*"
    if not where.startswith("http"):
        return f"{title}, {where}" if where else title
    return f"[{title}]({where})"


def _heading(name: str, one: Preset) -> str:
    """Return the heading of the preset `name`: the name, and the paper if an earlier preset has the same anchor.

    Two names can have the same anchor, because anchors lose punctuation.
    """
    same = [other for other in presets.presets() if _anchor(other) == _anchor(name)]
    return name if same[0] == name else f"{name} ({one.paper})"


def _anchor(heading: str) -> str:
    """Return the anchor of a heading, by which links find it on GitHub and in the documentation site."""
    return re.sub(r"[^a-z0-9 -]", "", heading.lower()).replace(" ", "-")


if __name__ == "__main__":
    PAGE.write_text(generated(), encoding="utf-8")
    sys.stdout.write(f"{PAGE}\n")
