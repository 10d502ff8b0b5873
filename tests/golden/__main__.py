"""Prints the golden values of the code as it is."""

from __future__ import annotations

import json

from tests.golden.values import ids, models, pixels

print(json.dumps({"ids": ids(), "models": models(), "pixels": pixels()}, indent=1))
