"""Copies between host and device, on the host; that a GPU is not waited for is seen on `meta`."""

from __future__ import annotations

import numpy as np
import torch

from study.devices import tables
from study.devices.copies import Download, moved, uploaded


def test_an_upload_shares_or_converts():
    values = np.arange(3, dtype=np.float64)
    assert uploaded(values, "cpu").data_ptr() == values.ctypes.data
    assert uploaded(values, "cpu", torch.float32).dtype == torch.float32


def test_numbers_that_cannot_be_written_are_copied_without_a_warning(recwarn):
    values = np.arange(3)
    values.flags.writeable = False
    assert uploaded(values, "cpu").tolist() == [0, 1, 2]
    assert not recwarn


def test_a_download_is_in_c_order():
    images = torch.rand(2, 3, 4, 5).contiguous(memory_format=torch.channels_last)
    (found,) = Download(images).arrays()
    assert found.flags.c_contiguous
    assert np.array_equal(found, images.contiguous().numpy())


def test_tables_are_made_once_until_they_are_forgotten():
    made = []

    @tables.kept
    def table(size, device):
        made.append(size)
        return moved(torch.zeros(size), device)

    assert table(3, "cpu") is table(3, "cpu")
    tables.forget()
    table(3, "cpu")
    assert made == [3, 3]
