"""The options of `study launch`, and the command line that gives them again."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path

from study.storage.paths import storage_path
from study.terminal import Style


@dataclass(frozen=True)
class LaunchOptions:
    """The command line of a launch."""

    spec: Path
    output: Path | None = None
    address: str | None = None
    overrides: tuple[str, ...] = ()
    allow_code: bool = False
    style: Style | None = None
    only: tuple[str, ...] = ()
    limit: int | None = None
    wandb: str | None = None

    @property
    def partial(self) -> bool:
        """Whether only a part of the study is to run: some experiments, or a number of units."""
        return bool(self.only) or self.limit is not None

    def command(self, *, whole: bool = False) -> str:
        """The command that continues this launch; `whole`: without `--only` and `--limit`."""
        words = ["study", "launch", str(self.spec)]
        words += ["--output", str(storage_path(self.output))] if self.output else []
        words += ["--address", self.address] if self.address else []
        words += ["--allow-code"] if self.allow_code else []
        words += ["--wandb", self.wandb] if self.wandb is not None else []
        for one in self.overrides:
            words += ["--set", one]
        if not whole:
            for one in self.only:
                words += ["--only", one]
            words += ["--limit", str(self.limit)] if self.limit is not None else []
        return shlex.join(words)
