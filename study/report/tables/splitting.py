"""Divides the columns of a table that is wider than the terminal over several tables."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from rich.console import Console
from rich.table import Table


def split(table_of: Callable[[slice], Table], end: int, console: Console) -> Iterator[Table]:
    """Yield tables that fit the terminal and together have the columns 0 to `end`, exclusive.

    The number of tables is as small as possible. A table with only one column is yielded even if it does not fit.
    `table_of` returns the table of a slice of the columns.
    """
    wide, start = console.options.update(max_width=100_000), 0
    while start < end:
        for stop in range(end, start, -1):
            table = table_of(slice(start, stop))
            if console.measure(table, options=wide).maximum <= console.width:
                break
        start = stop
        yield table
