"""The live view on a terminal: messages above, and below them the state of the launch, redrawn four times a second."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable

from rich.cells import cell_len
from rich.console import Console, Group
from rich.control import Control
from rich.live import Live as Region

from study.events.observer import Observer
from study.events.repairs import Repair
from study.events.run_state import RunState
from study.terminal import prose, screen
from study.terminal.lines import told

_REDRAW_SECONDS = 0.25
_MOST_ROWS = 24
_REMEMBERED = 200


class Live(Observer):
    """An observer that shows a launch on a terminal that can move the cursor: messages, and the state below them."""

    def __init__(self, printer: Callable[[], Console], state: RunState) -> None:
        """`printer` returns the console. The display may replace the console once, before it calls `open`."""
        self._printer = printer
        self._state = state
        self._lock = threading.RLock()
        self._said: deque[str] = deque(maxlen=_REMEMBERED)
        self._region: Region | None = None
        self._size = printer().size
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def _console(self) -> Console:
        return self._printer()

    def open(self) -> None:
        """Draw the state of the launch, and start a thread that redraws it."""
        with self._lock:
            self._size = self._console.size
            self._begin_region()
        self._thread = threading.Thread(target=self._keep_drawing, name="display", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop the thread and remove the state of the launch from the terminal. The messages stay."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        with self._lock:
            self._end_region()

    def say(self, line: str) -> None:
        with self._lock:
            self._said.append(line)
            self._print(line)

    def repaired(self, event: Repair) -> None:
        for line in told(event, self._state):
            self.say(line)

    def _print(self, line: str) -> None:
        prose.say(self._console, line)

    def _keep_drawing(self) -> None:
        while not self._stop.wait(_REDRAW_SECONDS):
            with self._lock:
                if self._console.size != self._size:
                    self._start_over()
                elif self._region is not None:
                    self._region.update(self._drawn(), refresh=True)

    def _start_over(self) -> None:
        """Clear the terminal, and draw the last messages and the state again, after the terminal was resized.

        A resize wraps lines, so the position of the cursor is unknown.
        """
        self._end_region()
        self._size = self._console.size
        self._console.control(Control.clear(), Control.home())
        for line in self._fitting():
            self._print(line)
        self._begin_region()

    def _fitting(self) -> list[str]:
        """Return the last messages that fit above the state of the launch, the oldest of them first."""
        width, height = self._size
        room, chosen = height - len(self._drawn().renderables) - 2, deque[str]()
        for line in reversed(self._said):
            room -= sum(max(1, -(-cell_len(part) // max(width, 1))) for part in prose.fitted(line, width))
            if room < 0:
                break
            chosen.appendleft(line)
        return list(chosen)

    def _drawn(self) -> Group:
        width, height = self._console.size
        ascii_only = self._console.options.ascii_only
        # Keep one column and two lines free: a full line or a full screen would make the terminal scroll.
        with self._state.lock:
            rows = screen.lines(self._state, width - 1, min(height - 2, _MOST_ROWS), ascii_only=ascii_only)
        return Group(*rows)

    def _begin_region(self) -> None:
        self._region = Region(
            self._drawn(),
            console=self._console,
            auto_refresh=False,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
            vertical_overflow="crop",
        )
        self._region.start(refresh=True)

    def _end_region(self) -> None:
        if self._region is not None:
            self._region.stop()
            self._region = None
