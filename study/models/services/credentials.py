"""Read the credential of a service from the environment, and hide it in every text."""

from __future__ import annotations

import json
import logging
import os
from urllib.parse import quote, quote_plus

from study.errors import StudyError
from study.models.services.service_spec import Remote


class Secret:
    """The value of a credential. Only `reveal` returns the value. A pickled `Secret` contains the value."""

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        return self._value

    def hide(self, text: str) -> str:
        """Return `text` with *** in place of the value.

        The value is also replaced if it is percent-encoded or escaped for JSON.
        """
        spellings = (self._value, quote(self._value, safe=""), quote_plus(self._value), json.dumps(self._value)[1:-1])
        for spelling in sorted(set(spellings), key=len, reverse=True):
            text = text.replace(spelling, "***")
        return text

    def filter(self, record: logging.LogRecord) -> bool:
        """Hide the value in a log record, and return True, as a filter of `logging` does.

        This is necessary because HTTP libraries log whole addresses, which may contain the value.
        """
        message = record.getMessage()
        hidden = self.hide(message)
        if hidden != message:
            record.msg, record.args, record.exc_info = hidden, None, None
        return True

    def __repr__(self) -> str:
        return "Secret(***)"


def credential_of(remote: Remote) -> Secret | None:
    """Return the credential of `remote` from this process's environment; None if the service needs no credential.

    Raises StudyError if the environment variable is unset, empty, or not one line of printable ASCII. The message has
    the name of the variable, and never its value.
    """
    if remote.credentials is None:
        return None
    variable = remote.credentials.env
    value = os.environ.get(variable, "")
    if not value:
        problem = "empty" if variable in os.environ else "not set"
        raise StudyError(
            f"the environment variable {variable} is {problem}; it must hold the credential of a service",
            todo=f"export {variable}=…",
        )
    if not (value.isascii() and value.isprintable() and value == value.strip()):
        raise StudyError(
            f"the value of the environment variable {variable} is not a valid credential",
            accepted="one line of printable ASCII, without spaces at either end",
        )
    return Secret(value)
