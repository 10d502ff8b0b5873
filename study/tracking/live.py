"""The state of a launch as metrics for W&B: speed, queues and failures."""

from __future__ import annotations

from study.events.run_state import RunState
from study.tracking.history import Row

_MOST_SLOTS = 64


def live_row(state: RunState) -> Row:
    """Return the state of a launch as numbers by metric name.

    The metrics are `live/…` for the launch, and `slots/<id>/busy` and `slots/<id>/queued` for the first 64 actors.
    """
    rates = state.rates
    row: Row = {
        "live/seconds": state.elapsed,
        "live/units_per_second": rates.units,
        "live/images_per_second": rates.images,
        "live/gradients_per_second": rates.gradients,
        "live/failures": state.set_aside,
    }
    if state.seconds_left is not None:
        row["live/eta_seconds"] = state.seconds_left
    if (loop := state.loop) is not None:
        up = [slot.busy_share for slot in loop.slots if slot.up]
        row |= {
            "live/busy": sum(up) / len(up) if up else 0.0,
            "live/queued_calls": sum(slot.queued for slot in loop.slots),
            "live/waiting_mib": loop.waiting_bytes / 2**20,
            "live/waiting_crafts": loop.waiting_crafts,
            "live/waiting_batches": loop.waiting_batches,
            "live/calls": loop.calls,
            "live/retries": loop.failed_calls,
            "live/lost_actors": loop.lost_actors,
            "live/repeated": loop.repeated,
        }
        for slot in loop.slots[:_MOST_SLOTS]:
            row |= {f"slots/{slot.id}/busy": slot.busy_share, f"slots/{slot.id}/queued": slot.queued}
    return row
