"""Logs that end anywhere, or are damaged anywhere, are read as far as they are whole."""

from __future__ import annotations

import struct
import zlib

import pytest

from study.tracking import logs


def _log(contents: list[bytes]) -> bytes:
    """LevelDB's log format, written the plain way: one piece per record, or pieces at the borders of blocks."""
    written = bytearray(b":W&B\xe1\xbe\x00")
    for content in contents:
        rest, first = content, True
        while True:
            room = 32768 - len(written) % 32768
            if room < 7:
                written += bytes(room)
                continue
            piece, rest = rest[: room - 7], rest[room - 7 :]
            kind = (1 if first else 4) if not rest else (2 if first else 3)
            written += struct.pack("<IHB", zlib.crc32(bytes([kind]) + piece), len(piece), kind) + piece
            first = False
            if not rest:
                break
    return bytes(written)


CONTENTS = [bytes([number]) * size for number, size in enumerate((5, 40_000, 1, 32_753, 100_000, 32_761 - 7, 3))]


def test_records_over_blocks():
    assert list(logs._contents(_log(CONTENTS))) == CONTENTS


@pytest.mark.parametrize("cut", [0, 3, 7, 12, 19, 20, 40_000, 40_040, 100_000, 150_000])
def test_a_log_without_its_end_gives_what_is_whole(cut):
    found = list(logs._contents(_log(CONTENTS)[:cut]))
    assert found == CONTENTS[: len(found)]


@pytest.mark.parametrize("at", [10, 5_000, 40_100, 90_000])
def test_a_damaged_log_ends_where_the_damage_is(at):
    damaged = bytearray(_log(CONTENTS))
    damaged[at] ^= 1
    found = list(logs._contents(bytes(damaged)))
    assert len(found) < len(CONTENTS)
    assert found == CONTENTS[: len(found)]
