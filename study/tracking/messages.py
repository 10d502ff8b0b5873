"""Messages between the driver and the tracking process. `multiprocessing.connection` pickles them."""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa

from study.tracking.history import Outline, Row
from study.tracking.tracker import RunInfo


@dataclass(frozen=True)
class Begin:
    """The first message to the tracking process: begin a run of the tracking service.

    Attributes:
        run: The run of the tracking service.
        results: The path of the run folder, or its address in an object store.
        outline: The part of the plan that the history needs.
        replay: Whether the process must first read the result rows in the run folder, and log their history.
        left: The number of units (attack runs on one shard of the images) that the launch has to do.
    """

    run: RunInfo
    results: str
    outline: Outline
    replay: bool
    left: int


@dataclass(frozen=True)
class UnitRows:
    """A message to the tracking process: the result rows of some units, with the columns `history.COLUMNS`."""

    rows: pa.Table


@dataclass(frozen=True)
class LiveMetrics:
    """A message to the tracking process: the state of the launch, as numbers by metric name."""

    row: Row


@dataclass(frozen=True)
class RowsWritten:
    """A message to the tracking process: all rows of the launch are in the run folder.

    The process can now make and log the final results.

    Attributes:
        live: The last state of the launch, as numbers by metric name.
        replay: Whether the process missed result rows, and must first read the rows in the run folder.
    """

    live: Row
    replay: bool


@dataclass(frozen=True)
class End:
    """The last message to the tracking process, after `RowsWritten`. `status`: the exit status of the launch.

    The process waits until the final results are logged, and ends the run of the tracking service.
    """

    status: int


Message = Begin | UnitRows | LiveMetrics | RowsWritten | End


@dataclass(frozen=True)
class Ready:
    """An answer of the tracking process: the run has begun. `address`: the URL of its page; None if it is offline."""

    address: str | None


@dataclass(frozen=True)
class Trouble:
    """An answer of the tracking process: the text of a message for the user, usually an error."""

    text: str
