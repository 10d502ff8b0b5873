"""The rich console of all commands. It shows control characters as visible escapes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rich import console
from rich.segment import Segment
from rich.text import Text

from study.safe_text import visible


class Console(console.Console):
    """A rich console that shows control characters in text as escapes, instead of sending them to the terminal.

    File names, labels and answers of services can contain control characters. rich's own control sequences (colours,
    the live view) are sent unchanged.
    """

    def render_str(self, text: str, **options: Any) -> Text:
        """Return rich text for `text` with control characters escaped.

        Rich measures the returned text, so tables have the right width.
        """
        return super().render_str(visible(text), **options)

    def render(
        self, renderable: console.RenderableType, options: console.ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(visible(segment.text), segment.style)
