"""The section `run` of a spec: where a study runs, on how many workers and how fast."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from study.spec.frozen import Frozen
from study.spec.shorthand import Shorthand

_AUTO = Shorthand(lambda given: None if given == "auto" else given, ({"const": "auto"},))

DeviceChoice = Literal["auto", "gpu", "cpu"]


class RunOptions(Frozen):
    """Where a study runs, on how many workers, how fast, and whether it keeps images. No key is part of ids.

    No key changes a pixel or a row, except by rounding: GPUs and processors round differently.

    - `shard`: number of images in one unit of work. If the number is not a multiple of `numerics.batch`, the last pass
      is padded. Absent or `auto`: 16 on processors; on GPUs a multiple of the batch, up to 512 or one batch, and small
      enough to keep all workers busy.
    - `device`: `gpu` waits for GPUs and uses nothing else; `cpu` uses processors, even if there are GPUs; `auto` uses
      GPUs if there are some when the study starts, or if the cluster's autoscaler adds some when asked.
    - `actors`: number of workers. Absent or `auto`: as many as the machines can hold; the number changes as machines
      join and leave. Each worker takes `numerics.threads` cores, or a GPU.
    - `actors_per_gpu`: number of workers that share one GPU, if its memory allows. Absent or `auto`: 1.
    - `actor_mib`: memory of one worker, in MiB. Absent or `auto`: estimated from the models of the spec.
    - `models_per_actor`: number of models that one worker keeps loaded. Absent or `auto`: as many as its memory holds.
    - `keep_images`: keep adversarial images in the run folder. If a later launch adds targets, these predict the kept
      images, and their attacks do not run again. Searches of the minimal RMSD keep no images.
    - `attempts`: number of attempts at a unit of work before the unit counts as failed.
    - `flush_seconds`: longest time between two writes of rows.
    - `waiting_mib`: size of the adversarial images that may wait for their targets, for each worker, in MiB.
    - `clean_mib`: memory for clean images, in MiB.
    - `wait_seconds`: longest time to wait for the machines or GPUs that the first workers need. The autoscaler, if
      there is one, is asked for these machines. Absent or `auto`: 900 if the cluster has an autoscaler, else 0.
    - `start_seconds`: longest time until the first worker has started; if all workers have died, until the first
      replacement has started.
    - `call_seconds`: time limit of one call. A worker that exceeds this limit is ended, and another worker repeats the
      call.
    - `straggler_seconds`: a call that takes this long, and three times as long as similar calls, is repeated on an idle
      worker.
    - `memory_seconds`: after Ray has ended workers for lack of memory, the study ends if no call is answered for this
      long.
    - `lost_seconds`: the study ends if, for this long, there is no worker and no machine with enough free resources for
      a worker. This happens if all spot machines are taken back.
    """

    shard: Annotated[Annotated[int, Field(ge=1, le=100_000)] | None, _AUTO] = None
    device: DeviceChoice = "auto"
    actors: Annotated[Annotated[int, Field(ge=1, le=100_000)] | None, _AUTO] = None
    actors_per_gpu: Annotated[Annotated[int, Field(ge=1, le=100)] | None, _AUTO] = None
    actor_mib: Annotated[Annotated[int, Field(ge=1)] | None, _AUTO] = None
    models_per_actor: Annotated[Annotated[int, Field(ge=1, le=1000)] | None, _AUTO] = None
    keep_images: bool = False
    attempts: Annotated[int, Field(ge=1, le=100)] = 3
    flush_seconds: Annotated[float, Field(ge=0, le=3600)] = 5.0
    waiting_mib: Annotated[int, Field(ge=1)] = 256
    clean_mib: Annotated[int, Field(ge=1)] = 1024
    wait_seconds: Annotated[Annotated[float, Field(ge=0, le=604_800)] | None, _AUTO] = None
    start_seconds: Annotated[float, Field(gt=0, le=86_400)] = 300.0
    call_seconds: Annotated[float, Field(gt=0, le=1e6)] = 3600.0
    straggler_seconds: Annotated[float, Field(gt=0, le=1e6)] = 30.0
    memory_seconds: Annotated[float, Field(gt=0, le=86_400)] = 600.0
    lost_seconds: Annotated[float, Field(gt=0, le=604_800)] = 40.0
