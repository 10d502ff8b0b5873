"""Parses the address of a run: a local folder, or a prefix in an S3 bucket."""

from __future__ import annotations

import re
from pathlib import Path

from study.errors import StudyError
from study.storage.s3_path import S3Path

StoragePath = Path | S3Path
"""The path of a file or folder of a run: a local path, or an object or prefix in S3."""

# The command line may have converted the address to a `Path`, which leaves only one slash after `s3:`.
_S3_ADDRESS = re.compile(r"s3:/+([^/]+)/*(.*)")


def storage_path(address: str | StoragePath) -> StoragePath:
    """Return the path of `address`, a local folder or `s3://bucket/prefix`. Raises StudyError for any other address."""
    if isinstance(address, S3Path):
        return address
    found = _S3_ADDRESS.fullmatch(str(address))
    if found is None:
        if re.match(r"[a-z0-9+]+:/+", str(address)):
            raise StudyError(f"{address} cannot hold a run", accepted="a folder, or s3://bucket/prefix")
        return Path(address)
    bucket, key = found.groups()
    if not key.strip("/"):
        raise StudyError(
            f"{address} names only a bucket; a run needs a prefix in it",
            accepted="s3://bucket/prefix",
            where="the address of the run",
        )
    return S3Path(bucket, "/".join(part for part in key.split("/") if part))
