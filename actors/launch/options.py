"""The options of `study launch`, and the command line that continues a launch."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path

from study.spec import loading
from study.spec.spec_file import SpecFile
from study.storage.paths import storage_path
from study.terminal import Style


@dataclass(frozen=True)
class LaunchOptions:
    """The options of a launch.

    Attributes:
        spec: The YAML file; None if a program has made the spec.
        output: The run folder; None for `runs/<study>`.
        address: The address of a Ray cluster; None for RAY_ADDRESS or a local Ray.
        overrides: Values that replace values of the spec, as `KEY=VALUE`.
        allow_code: Whether the user's own Python code may run.
        style: How the terminal shows the launch; None for the default.
        only: Names of the experiments to run; empty for all.
        limit: Largest number of units to run; None without a limit.
        wandb: The mode of W&B: `online`, `offline` or `disabled`; None if it is not given.
        inline: Whether everything runs in this process, without Ray.
        other_devices: Whether a study may continue on devices that differ from those of earlier launches.
        given: The spec that a program has made, or that was already read. It replaces `spec`.
    """

    spec: Path | None
    output: Path | None = None
    address: str | None = None
    overrides: tuple[str, ...] = ()
    allow_code: bool = False
    style: Style | None = None
    only: tuple[str, ...] = ()
    limit: int | None = None
    wandb: str | None = None
    inline: bool = False
    other_devices: bool = False
    given: SpecFile | None = None

    @property
    def partial(self) -> bool:
        """Whether only a part of the study runs: some experiments (`only`), or some units (`limit`)."""
        return bool(self.only) or self.limit is not None

    def spec_file(self) -> SpecFile:
        """Return the spec of the launch. Raises StudyError, with file, line and key, if the spec is not valid."""
        if self.given is not None:
            return self.given
        assert self.spec is not None, "a launch has the file of a spec, or a spec made by a program"
        return loading.load(self.spec, self.overrides)

    def command(self, *, whole: bool = False) -> str:
        """Return the command that continues this launch. `whole`: whether `--only` and `--limit` are left out."""
        if self.spec is None:
            return f"study.launch(…, output={str(storage_path(self.output or ''))!r}), with the same spec"
        words = ["study", "launch", str(self.spec)]
        words += ["--output", str(storage_path(self.output))] if self.output else []
        words += ["--inline"] if self.inline else []
        words += ["--address", self.address] if self.address else []
        words += ["--allow-code"] if self.allow_code else []
        words += ["--other-devices"] if self.other_devices else []
        words += ["--wandb", self.wandb] if self.wandb is not None else []
        for one in self.overrides:
            words += ["--set", one]
        if not whole:
            for one in self.only:
                words += ["--only", one]
            words += ["--limit", str(self.limit)] if self.limit is not None else []
        return shlex.join(words)
