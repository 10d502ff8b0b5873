"""The console that everything for people is printed on."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rich import console
from rich.segment import Segment
from rich.text import Text

from study.safe_text import visible


class Console(console.Console):
    """rich's console, which writes out control characters of the text that it is given.

    File names, labels and what services answer come from elsewhere: a terminal shows them and does not obey them.
    rich's own control sequences (colours, the live view) pass.
    """

    def render_str(self, text: str, **options: Any) -> Text:
        """Before rich measures the text, so that tables are as wide as what they show."""
        return super().render_str(visible(text), **options)

    def render(
        self, renderable: console.RenderableType, options: console.ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(visible(segment.text), segment.style)
