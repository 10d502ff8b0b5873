"""Loads the templates of all HTML pages. The templates escape values, and a missing value is an error."""

from __future__ import annotations

import functools

import jinja2


@functools.cache
def environment() -> jinja2.Environment:
    """Return the Jinja environment that loads the templates in this package."""
    made = jinja2.Environment(
        loader=jinja2.PackageLoader("study.report.html"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.policies["json.dumps_kwargs"] = {"separators": (",", ":")}
    return made
