"""The program of a small process that outlives the driver and reports what Ray does not.

If the raylet dies during a call, Ray's own code ends the driver's process at once, without a message. This program then
prints the message.

On the standard input, the driver writes the messages as one line of JSON: the process id of each daemon, and the
message about its death. When the driver ends in an orderly way, or reports the death itself, it writes another line.
The program then prints nothing.

The driver runs this file by its path, without site packages. So it imports only the standard library.
"""

from __future__ import annotations

import json
import os
import select
import sys

if __name__ == "__main__":
    messages = {os.pidfd_open(int(pid)): message for pid, message in json.loads(sys.stdin.readline()).items()}
    if not sys.stdin.readline():
        # If all daemons still run, something else has ended the driver, such as the user.
        for descriptor in select.select(messages, [], [], 0)[0]:
            print(messages[descriptor], file=sys.stderr)
