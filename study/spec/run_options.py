"""What a spec says of where, how many and how fast: `run:`."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, field_validator

from study.spec.frozen import Frozen


class Run(Frozen):
    """Where, how many, how fast, and what is kept: nothing in here changes a pixel or a row.

    `shard` is how many images a unit has: one that is no multiple of `numerics.batch` has its last pass padded.
    `actors` is how many workers there are; left out, or `auto`, as many as the machines have room for, following those
    that come and go: each on `numerics.threads` cores, or on a GPU, which `actors_per_gpu` of them share as far as its
    memory allows. An actor holds as many models as its memory does, or `models_per_actor`; what it needs is estimated
    from its models, or given as `actor_mib`. A call that takes `call_seconds` is given up with its actor; one that
    takes `straggler_seconds`, and three times as long as others like it, is made again on an actor that has nothing
    else to do. Where all workers die, the first of those in their place has `start_seconds` to come up. Where Ray ends
    workers because a machine has no memory left, others take their place once there is some; with no call answered for
    `memory_seconds` the study ends. For each worker `waiting_mib` of adversarial batches may wait for their targets.
    With `keep_images` adversarial images are kept in the run folder: targets that are added later are then shown what
    is kept.
    """

    shard: Annotated[int, Field(ge=1, le=100_000)] = 16
    actors: Annotated[int, Field(ge=1, le=100_000)] | None = None
    actors_per_gpu: Annotated[int, Field(ge=1, le=100)] | None = None
    actor_mib: Annotated[int, Field(ge=1)] | None = None
    models_per_actor: Annotated[int, Field(ge=1, le=1000)] | None = None
    keep_images: bool = False
    attempts: Annotated[int, Field(ge=1, le=100)] = 3
    flush_seconds: Annotated[float, Field(ge=0, le=3600)] = 5.0
    waiting_mib: Annotated[int, Field(ge=1)] = 256
    clean_mib: Annotated[int, Field(ge=1)] = 1024
    start_seconds: Annotated[float, Field(gt=0, le=86_400)] = 300.0
    call_seconds: Annotated[float, Field(gt=0, le=1e6)] = 3600.0
    straggler_seconds: Annotated[float, Field(gt=0, le=1e6)] = 30.0
    memory_seconds: Annotated[float, Field(gt=0, le=86_400)] = 600.0

    @field_validator("actors", "actors_per_gpu", "actor_mib", "models_per_actor", mode="before")
    @classmethod
    def _auto(cls, given: Any) -> Any:
        return None if given == "auto" else given
