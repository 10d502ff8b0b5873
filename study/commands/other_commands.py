"""Suggests a command of this project for a command that does not exist, such as a command of another tool."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from study.errors import StudyError, names

OURS: Mapping[str, str] = {
    **dict.fromkeys(("run", "start", "go", "resume", "continue", "execute", "submit"), "study launch SPEC"),
    **dict.fromkeys(("check", "lint", "test", "dry-run"), "study validate SPEC"),
    **dict.fromkeys(("new", "create", "quickstart"), "study init SPEC"),
    **dict.fromkeys(("estimate", "cost", "count"), "study plan SPEC"),
    **dict.fromkeys(("progress", "monitor", "watch", "ps", "top"), "study status RUN --watch"),
    **dict.fromkeys(("results", "matrix", "print", "view", "ls", "summary", "open"), "study show RUN"),
    **dict.fromkeys(("latex", "tex", "csv", "markdown", "typst", "tables"), "study table RUN"),
    **dict.fromkeys(("paragraph", "describe", "cite"), "study methods RUN"),
    **dict.fromkeys(("html", "plot", "plots", "figure", "figures"), "study report RUN --figures FOLDER"),
    **dict.fromkeys(("export", "save", "png", "image"), "study images RUN --to FOLDER"),
    **dict.fromkeys(("download", "weights", "pull"), "study fetch SPEC"),
    **dict.fromkeys(("presets", "preset", "list", "attack"), "study attacks"),
    **dict.fromkeys(("model", "accuracy", "eval", "evaluate"), "study models SPEC --accuracy"),
    **dict.fromkeys(("merge", "vacuum"), "study compact RUN"),
    **dict.fromkeys(("claims", "finding", "stats", "statistics"), "study findings RUN"),
    **dict.fromkeys(("paper", "published", "reproduce"), "study compare RUN"),
    "wandb": "study launch SPEC --wandb online",
}
"""The command of this project to suggest, for each command that a user of another tool may type."""


def unknown_command(given: str, known: Iterable[str]) -> StudyError:
    """Return the error for the command `given`, which does not exist. The error suggests a command of this project.

    `known`: the names of all commands.
    """
    ours = OURS.get(given.lower())
    todo = f"write `{ours}`" if ours else "`study --help` lists all commands"
    nearest = ours.split()[1] if ours else given
    return StudyError(f"there is no command '{given}'", accepted=names(known, nearest), todo=todo)
