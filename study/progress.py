"""Where displays stood before `study.terminal`: benchmarks still ask for lines here."""

from study.terminal.front import Front as Lines

__all__ = ["Lines"]
