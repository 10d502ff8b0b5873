"""What a person sees of a running study: live on a terminal, lines elsewhere, events for programs, a log for later."""

from study.terminal.display import Display, Style, style

__all__ = ["Display", "Style", "style"]
