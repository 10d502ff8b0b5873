"""Names of processors."""

from __future__ import annotations

import platform

from study.reproducibility.hardware import hardware, processor


def test_processors():
    assert processor("processor\t: 0\nmodel name\t: A Processor @ 2.00GHz\nflags: x\n") == "A Processor @ 2.00GHz"
    assert processor("") == (platform.processor() or platform.machine())
    assert hardware("cpu")
