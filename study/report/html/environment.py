"""The templates of all pages: values are escaped, and a missing value is an error."""

from __future__ import annotations

import functools

import jinja2


@functools.cache
def environment() -> jinja2.Environment:
    """The environment of the templates in this package."""
    made = jinja2.Environment(
        loader=jinja2.PackageLoader("study.report.html"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.policies["json.dumps_kwargs"] = {"separators": (",", ":")}
    return made
