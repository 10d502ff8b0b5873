"""The program of a small process that outlives the driver and reports what Ray does not.

If the raylet dies during a call, Ray's own code ends the driver's process at once, without a message to the user. It
only writes a line to its log. If this program finds such a line, it prints the message.

On the standard input, the driver writes one line of JSON: the folder of Ray's logs, the driver's process id, and the
message. Before the driver ends Ray in an orderly way, it writes another line. The program then prints nothing.

The driver runs this file by its path, without site packages. So it imports only the standard library.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

_ENDINGS = ("Terminate the process", "Exiting because")
"""Words of the lines that Ray writes before it ends a process whose raylet is gone."""
_LAST_BYTES = 4096


def ended_by_ray(logs: Path, driver: int) -> bool:
    """Return whether Ray's log of the process `driver` ends with a line that says that Ray ended the process."""
    for log in logs.glob(f"python-core-driver-*_{driver}.log"):
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - _LAST_BYTES))
            last = file.read().decode(errors="replace")
        if any(words in last for words in _ENDINGS):
            return True
    return False


if __name__ == "__main__":
    folder, pid, message = json.loads(sys.stdin.readline())
    if not sys.stdin.readline() and ended_by_ray(Path(folder), pid):
        print(message, file=sys.stderr)
