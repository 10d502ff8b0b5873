"""Clusters that grow, on simulated machines: what a launch waits for, asks for, says, and gives up."""

from __future__ import annotations

import time

import pytest

from actors.backends.in_process import InProcess
from actors.backends.interface import Scaling
from actors.backends.simulated import Costs, Machines, Simulated
from actors.resources import placement
from actors.resources.growth import Growth
from actors.resources.placement import Machine, ResourceRequest, WorkerOptions, WorkerPool
from actors.resources.waiting import Waiting
from actors.scheduling.backlog import Task
from actors.scheduling.limits import Limits
from actors.scheduling.messages import PredictJob
from actors.scheduling.scheduler import Done, Scheduler
from study.errors import StudyError
from study.spec.run_options import RunOptions

COSTS = Costs(gradient={}, predict={"a": 1.0}, load={"a": 1.0}, driver=0.0)


class Cluster(Simulated):
    """A simulated cluster that notes what is asked of it."""

    def __init__(self, machines: Machines) -> None:
        super().__init__(COSTS, machines, batch=8)
        self.asked: list[tuple[int, str]] = []

    def request(self, workers, resources):
        self.asked.append((workers, resources.device))
        if (resources.gpus > 0) == self._machines.gpus:
            super().request(workers, resources)


class Trial:
    """A wait on a cluster, with the lines that it says."""

    def __init__(self, cluster: Cluster, **run) -> None:
        self.cluster, self.run, self.lines = cluster, RunOptions(**run), []

    def wait(self, check=lambda: None) -> WorkerPool:
        def fits(options):
            return placement.plan_workers(self.cluster.machines(), None, options)

        waiting = Waiting(self.cluster, self.run, self.lines.append, check, self.cluster.clock)
        run = self.run
        options = WorkerOptions(workers=run.actors, per_gpu=run.actors_per_gpu, device=run.device)
        return fits(waiting.machines_for(options, fits))

    @property
    def said(self) -> str:
        return "\n".join(self.lines)


@pytest.mark.parametrize("device", ["auto", "gpu"])
def test_a_cluster_without_machines_is_asked_for_a_gpu(device):
    trial = Trial(Cluster(Machines(0, grows_to=4, boot=200.0)), device=device)
    pool = trial.wait()
    assert (pool.workers, pool.resources.device) == (1, "cuda:0")
    assert trial.cluster.asked == [(1, "cuda:0")]
    assert trial.cluster.now == pytest.approx(200, abs=2)
    assert "waiting for a GPU" in trial.lines[0]
    assert "no machine has a GPU; the autoscaler is asked for one" in trial.lines[0]
    assert "1 machine will join" in trial.said
    assert trial.lines[-1].startswith("a machine came after 20")


def test_a_number_of_workers_is_asked_for_and_begins_with_what_there_is():
    trial = Trial(Cluster(Machines(0, grows_to=4)), actors=3)
    pool = trial.wait()
    assert trial.cluster.asked == [(3, "cuda:0")]
    assert (pool.workers, pool.options.fewer) == (3, True)
    few = Trial(Cluster(Machines(1, grows_to=4)), actors=3)
    assert few.wait().workers == 1
    assert few.cluster.asked == [], "the study asks for the others while it runs"


def test_where_no_gpu_can_come_processors_are_asked_for():
    trial = Trial(Cluster(Machines(0, slots=2, grows_to=4, gpus=False)))
    pool = trial.wait()
    assert (pool.workers, pool.resources.device) == (2, "cpu")
    assert [asked for asked in trial.cluster.asked if asked[0]] == [(1, "cuda:0"), (1, "cpu")]
    assert "the autoscaler adds no GPU: workers run on processors" in trial.said
    here = Trial(Cluster(Machines(1, grows_to=4, gpus=False)))
    assert here.wait().resources.device == "cpu"
    assert here.cluster.now == pytest.approx(60, abs=2), "a minute for the autoscaler to answer"
    at_once = Trial(Cluster(Machines(1, grows_to=4, gpus=False)), device="cpu")
    assert at_once.wait().workers == 1
    assert at_once.cluster.now == 0


def test_what_does_not_come_in_time_is_an_error_and_asked_for_no_more():
    trial = Trial(Cluster(Machines(0, grows_to=4, boot=1e6)), wait_seconds=300, device="gpu")
    with pytest.raises(StudyError, match=r"no machine has a GPU, after 30\d s of waiting") as caught:
        trial.wait()
    assert "raise run.wait_seconds" in caught.value.todo
    assert trial.cluster.asked[-1][0] == 0


@pytest.mark.parametrize(
    "backend", [Cluster(Machines(0)), InProcess(machine=Machine(0.5))], ids=["fixed size", "inline"]
)
def test_where_nothing_can_come_nobody_waits(backend):
    def fits(options):
        placement.plan_workers(backend.machines(), None, options)

    clock = getattr(backend, "clock", time.monotonic)
    with pytest.raises(StudyError, match="a worker with 1 thread needs 1 core of"):
        Waiting(backend, RunOptions(), pytest.fail, lambda: None, clock).machines_for(WorkerOptions(), fits)
    if isinstance(backend, Cluster):
        assert backend.now == pytest.approx(15, abs=2), "a new autoscaler is not seen at once"


def test_an_autoscaler_that_reports_late_is_asked():
    class New(Cluster):
        def scaling(self):
            return super().scaling() if self.now > 7 else None

    trial = Trial(New(Machines(0, grows_to=1)))
    assert trial.wait().workers == 1
    assert trial.cluster.asked == [(1, "cuda:0")]


def test_a_signal_ends_the_wait():
    def stop():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Trial(Cluster(Machines(0, grows_to=1))).wait(stop)


def test_a_study_grows_with_its_cluster_and_asks_for_no_more_than_it_has_work_for():
    cluster = Cluster(Machines(1, grows_to=8, boot=30.0))
    trial = Trial(cluster)
    pool = trial.wait()
    growth = Growth(cluster, pool, trial.lines.append)
    made = Scheduler(
        cluster, pool, None, limits=Limits(start_seconds=1e9), elastic=True, clock=cluster.clock, growth=growth
    )
    made.start(lambda: None)
    for number in range(200):
        made.add(Task("predict", {"a": None}, PredictJob(("a",), 8, ("x",) * 8), lambda: -1, 1.0, number))
    most, done = 0, []
    while not made.idle:
        done += made.step(1.0)
        most = max(most, made.workers)
    assert sorted(one.task.context for one in done if isinstance(one, Done)) == list(range(200))
    assert most == 8
    assert cluster.now < 200 * 8 / 3, "eight workers were at it for most of the time"
    asked = [workers for workers, _ in cluster.asked]
    assert asked[:4] == [2, 4, 8, 16], "twice the workers that there are, whenever there are more"
    assert max(asked) == 16
    growth.follow(made.workers, 0, cluster.now + 60)
    assert cluster.asked[-1][0] == 0, "nothing is asked for once no work waits"


class Given:
    """A cluster whose answers are given; it notes requests."""

    def __init__(self, coming=0, gpus=0.0):
        self.state, self.asked, self.gpus = Scaling(coming), [], gpus

    def scaling(self):
        return self.state

    def machines(self):
        return [Machine(4.0, self.gpus)]

    def request(self, workers, resources):
        self.asked.append(workers)


ON_GPU = WorkerPool(1, ResourceRequest(0, 1.0))


def test_requests_shrink_where_nothing_comes_and_begin_again_later():
    cluster = Given()
    growth = Growth(cluster, ON_GPU, pytest.fail)
    for now in range(0, 1000, 10):
        growth.follow(8, 100, float(now))
    assert cluster.asked == [16, 12, 10, 9, 0, 9, 0]


def test_a_request_waits_for_machines_that_are_coming_and_for_work():
    cluster = Given(coming=1)
    growth = Growth(cluster, ON_GPU, pytest.fail)
    for now in range(0, 1000, 10):
        growth.follow(8, 100, float(now))
    assert cluster.asked == [16]
    growth.follow(8, 3, 1000.0)
    growth.follow(8, 0, 1010.0)
    assert cluster.asked == [16, 10, 0]


def test_no_more_workers_than_the_spec_asks_for():
    cluster = Given()
    pool = WorkerPool(4, ResourceRequest(0, 1.0), options=WorkerOptions(workers=5, fewer=True))
    growth = Growth(cluster, pool, pytest.fail)
    growth.follow(4, 100, 0.0)
    growth.follow(5, 100, 10.0)
    assert cluster.asked == [5, 0]


@pytest.mark.parametrize(("device", "told"), [("auto", 2), ("cpu", 0)])
def test_gpus_that_join_later_are_not_ignored_in_silence(device, told):
    cluster, lines = Given(), []
    pool = WorkerPool(4, ResourceRequest(1, 0), options=WorkerOptions(device=device))
    growth = Growth(cluster, pool, lines.append)
    for now, gpus in enumerate((0, 0, 2, 2, 4)):
        cluster.gpus = float(gpus)
        growth.follow(4, 0, 10.0 * now)
    assert len(lines) == told
    if told:
        assert lines[0].startswith("2 GPUs joined after the start but cannot be used")
        assert "run.device=gpu" in lines[0]
