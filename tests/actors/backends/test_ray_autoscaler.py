"""What Ray tells of its autoscaler and its GPUs: texts as Ray 2.60 and nvidia-smi write them."""

from __future__ import annotations

import pytest

from actors.backends.interface import Scaling
from actors.backends.ray_autoscaler import of_status
from actors.backends.ray_backend import smallest

REPORT = {"active_nodes": {"ray.head.default": 1}, "pending_nodes": [], "pending_launches": {}, "failed_nodes": []}


@pytest.mark.parametrize(
    ("report", "found"),
    [
        (None, None),
        ({**REPORT, "active_nodes": {"node_1f00aa": 1, "node_2b00aa": 1}}, None),
        (REPORT, Scaling(0)),
        ({**REPORT, "pending_nodes": [["i-1", "10.0.0.2", "gpu", "setting-up"]]}, Scaling(1)),
        ({**REPORT, "pending_launches": {"gpu": 3}, "pending_nodes": [["", "10.0.0.2", "gpu", ""]]}, Scaling(4)),
        ({**REPORT, "pending_launches": None}, Scaling(0)),
    ],
)
def test_the_state_of_the_first_autoscaler(report, found):
    assert of_status({"autoscaler_report": report}) == found
    assert of_status({}) is None


PARTS = """GPU 0: NVIDIA A100-SXM4-80GB (UUID: GPU-1)
  MIG 3g.40gb     Device  0: (UUID: MIG-1)
  MIG 1g.10gb+me  Device  1: (UUID: MIG-2)
  MIG 1c.2g.20gb  Device  2: (UUID: MIG-3)
"""


@pytest.mark.parametrize(
    ("listed", "totals", "size"),
    [
        ("GPU 0: NVIDIA H200 (UUID: GPU-1)\nGPU 1: NVIDIA T4 (UUID: GPU-2)\n", "143771\n15360\n", 15360 * 2**20),
        (PARTS, "81920\n", 10e9),
        ("", "", None),
        ("GPU 0: N (UUID: GPU-1)\n", "[N/A]\n", None),
    ],
    ids=["the smallest", "parts", "no nvidia-smi", "it does not tell"],
)
def test_the_memory_of_the_smallest_gpu_or_part_of_one(listed, totals, size):
    assert smallest(listed, totals) == size
