"""Prints the golden values of the code as it is."""

from __future__ import annotations

import json

from tests.golden.values import defaults, ids, models, pixels

print(
    json.dumps(
        {
            "ids": ids(),
            "ids of format 1": ids(1),
            "defaults": defaults(),
            "models": models(),
            "pixels": pixels(),
        },
        indent=1,
    )
)
