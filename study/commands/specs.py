"""`study specs`: list the specs that come with the project, or print one."""

from __future__ import annotations

from rich import box
from rich.console import Console
from rich.table import Table

from study.spec import shipped_specs
from study.terminal.prose import exactly


def print_specs(console: Console, name: str | None = None) -> None:
    """Print the names of all shipped specs, or the text of spec `name`. Raises StudyError if there is no such spec."""
    if name is not None:
        return exactly(console, shipped_specs.spec_named(name).text, end="")
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1))
    table.add_column("spec", no_wrap=True)
    table.add_column("needs", overflow="fold")
    table.add_column("what")
    for one in map(shipped_specs.spec_named, shipped_specs.names()):
        table.add_row(one.name, "\n".join(one.needs), one.purpose)
    console.print(table)
    exactly(
        console,
        "needs: environment variables, explained at the top of the spec. A spec without needs runs at once with the\n"
        "packages of the extra `demo`: study launch quickstart\n"
        "To copy a spec: study specs quickstart > mine.yaml",
    )
    return None
