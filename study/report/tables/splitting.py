"""Split a table that is wider than the terminal by its columns."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from rich.console import Console
from rich.table import Table


def split(table_of: Callable[[slice], Table], end: int, console: Console) -> Iterator[Table]:
    """As few tables of the columns 0 to `end` as fit the terminal; a single column is never split.

    `table_of` makes the table of some of these columns.
    """
    wide, start = console.options.update(max_width=100_000), 0
    while start < end:
        for stop in range(end, start, -1):
            table = table_of(slice(start, stop))
            if console.measure(table, options=wide).maximum <= console.width:
                break
        start = stop
        yield table
