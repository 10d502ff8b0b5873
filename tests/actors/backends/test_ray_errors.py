"""Ray's own texts of errors, recorded from Ray 2.60, become one line each."""

from __future__ import annotations

import pytest

from actors.backends.ray_errors import cause, death, out_of_memory

MONITOR = """3 worker(s) were killed due to the node running low on memory. Memory on the node (IP: 192.0.2.2, ID: b245) was 6.99GB used / 23.54GB limit (0.296795)
OOM kill reason: Memory usage 7330095104B exceeded threshold of 7330058240B (29.0% of 25276063744B limit)
Object store memory usage: [- objects spillable: 0
(global lru) capacity: 268435456]
Ray killed 2 worker(s) based on the killing policy
Considered workers: [
Selected to kill: (Actor(98a8): job ID=01000000, lease ID=0200, task name=A.__init__, required resources={}, pid=10474, actual memory used=0.50GB, worker ID=1ba7)
Selected to kill: (Actor(0bdb): job ID=01000000, lease ID=0100, task name=A.__init__, required resources={}, pid=10362, actual memory used=0.75GB, worker ID=ce2d)
]
Top 10 memory users: PID\tMEM(GB)\tCOMMAND
9123\t1.15\tray::WorkerActor.craft
10445\t2.36\t/opt/bin/python -c import time; x=bytearray(int(5*2**30)); time.sleep(3)
9249\t0.76\t/usr/bin/firefox
Refer to the documentation on how to address the out of memory issue: https://docs.ray.io/en/latest/ray-observability/
"""  # noqa: E501


def test_the_memory_monitor_in_one_line():
    assert out_of_memory(MONITOR) == (
        "memory ran out on 192.0.2.2, and Ray killed workers there: 6.8 of 23.5 GiB were in use and the limit is 6.8 "
        "GiB; Ray's workers used 1.2 GiB, other processes 5.6 GiB (most of it: python, 2.4 GiB)"
    )
    assert out_of_memory("a page of another release") == "memory ran out on a machine, and Ray killed workers there"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "The actor died because of an error raised in its creation task, ray::A.__init__() (pid=9029, ip=192.0.2.2)"
            '\n           ^^^^^^\n  File "probe.py", line 19, in __init__\n    raise RuntimeError("bad")\n'
            "RuntimeError: bad ctor\nsecond line",
            "RuntimeError: bad ctor",
        ),
        (
            "ray::A.f() (pid=1)\n  At least one of the input arguments for this task could not be computed:\n"
            "ray.exceptions.RaySystemError: System error: division by zero\ntraceback: Traceback (most recent call"
            ' last):\n  File "<string>", line 1, in <module>\nZeroDivisionError: division by zero',
            "ZeroDivisionError: division by zero",
        ),
        (
            "ray::A.f() (pid=1)\nZeroDivisionError: division by zero\n\nThe above exception was the direct cause of "
            "the following exception:\n\nray::A.f() (pid=1)\n    raise\nValueError: outer",
            "ValueError: outer",
        ),
        ("ray.exceptions.RaySystemError: System error: lost", "lost"),
        ("", "Ray gives no reason"),
    ],
)
def test_the_cause_is_what_is_raised_last(text, said):
    assert cause(text) == said


def test_a_death_in_one_line():
    page = (
        "The actor died unexpectedly before finishing this task.\n\tclass_name: A\n\tactor_id: 31a9\n\tpid: 9173\n"
        "\tip: 192.0.2.2\nThe actor is dead because its worker process has died. Worker exit type: SYSTEM_ERROR Worker "
        "exit detail: "
    )
    assert death(f"{page}Worker exits unexpectedly. Worker exits with an exit code 3.", machine=False) == (
        "an actor died on 192.0.2.2: Worker exits unexpectedly. Worker exits with an exit code 3"
    )
    gone = "Worker unexpectedly exits with a connection error code 2. End of file. Some common causes include: (1) the"
    assert death(page + gone, machine=False) == (
        "an actor died on 192.0.2.2: The process ended without a message: it was killed, or compiled code crashed"
    )
    assert death(page, machine=True) == "the machine of an actor has died (192.0.2.2)"
