"""The output of a launch: a live view on a terminal, lines elsewhere, JSON events for programs, and a log."""

from study.terminal.display import Display, Style, style

__all__ = ["Display", "Style", "style"]
