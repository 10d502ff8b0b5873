"""Work in threads: the results and the error of the same work one after the other."""

from __future__ import annotations

import threading

import pytest

from study.process.threads import host_threads, in_threads, threads_here


@pytest.mark.parametrize("threads", [1, 3])
def test_results_keep_their_order(threads):
    assert in_threads(pow, [(number, 2) for number in range(20)], threads) == [number**2 for number in range(20)]


def test_threads_work_at_the_same_time():
    """Each waits for the other three: one after the other they would wait for ever."""
    together = threading.Barrier(4, timeout=60)
    assert sorted(in_threads(together.wait, [()] * 4, 4)) == [0, 1, 2, 3]


@pytest.mark.parametrize("threads", [1, 3])
def test_the_first_error_is_raised(threads):
    with pytest.raises(ValueError, match="'a'"):
        in_threads(int, [("1",), ("2",), ("a",), ("b",), ("5",)], threads)


def test_models_on_a_cpu_keep_the_cores():
    assert host_threads("cpu") == 1
    assert host_threads("cuda:0") == threads_here() >= 1
