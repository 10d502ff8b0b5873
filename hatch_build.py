"""Lets a wheel hold what lies beside the packages in a checkout; study/distribution.py says where, and why."""

from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class TopLevel(BuildHookInterface):  # type: ignore[type-arg]
    """Puts `cli.py` and `specs/` into `study/top_level/`. An editable install finds them in the checkout."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if version != "editable":
            build_data["force_include"] |= {name: f"study/top_level/{name}" for name in ("cli.py", "specs")}
