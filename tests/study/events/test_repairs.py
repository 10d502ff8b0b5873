"""Repairs are told in one word, wherever they were made: on the terminal, in the log, in status.json, as events."""

from __future__ import annotations

import io
import json
import pickle
import threading

import pytest
from rich.console import Console

from actors.workers.ray_actors import pack_answer, unpack, unpack_answer
from study.events import repairs
from study.events.observer import Ended, Observer, Observers
from study.events.repairs import Repair, repaired
from study.storage.run_folder import RunFolder
from study.terminal import Display, Style


@pytest.fixture(autouse=True)
def _none_of_others():
    repairs.taken()


@pytest.fixture
def told(tmp_path):
    """What a launch in this style prints, logs and counts while `made` is carried out."""

    def run(how, made):
        folder = RunFolder(tmp_path / "run")
        folder.claim()
        printed = io.StringIO()
        try:
            with Display(Console(file=printed, width=300), Style(how)) as front:
                front.attach("x", folder)
                made()
                front.say("goes on")
                front.ended(Ended(0, 0, 0, 1.0))
        finally:
            folder.release()
        status = json.loads((tmp_path / "run" / "status.json").read_text())
        return printed.getvalue(), (tmp_path / "run" / "study.log").read_text(), status["repairs"]

    return run


def test_people_read_it_and_status_counts_it(told):
    printed, logged, counted = told("shown", lambda: repaired("actor", "worker 3 has died"))
    assert "repaired: actor: worker 3 has died" in printed.splitlines()[0]
    assert "study: repaired: actor: worker 3 has died" in logged
    assert counted == {"actor": 1}


def test_programs_get_an_event(told):
    printed, _, _ = told("json", lambda: repaired("batch", "the images of u are lost"))
    first = json.loads(printed.splitlines()[0])
    assert (first["event"], first["kind"], first["what"]) == ("repaired", "batch", "the images of u are lost")


def test_the_schema_knows_every_kind():
    from tests.study.terminal.test_display import SCHEMA

    assert tuple(SCHEMA["$defs"]["repaired"]["properties"]["kind"]["enum"]) == repairs.KINDS


def test_nothing_is_told_where_nothing_was_mended(told):
    printed, logged, counted = told("shown", lambda: None)
    assert repairs.WORD not in printed + logged
    assert counted == {}


def test_many_are_counted_and_the_first_are_printed(told):
    def often():
        for number in range(100):
            repaired("call", f"call {number}")

    printed, logged, counted = told("shown", often)
    assert printed.count("repaired: call") == 20
    assert "further repairs are counted" in printed
    assert logged.count("repaired: call") == 100
    assert counted == {"call": 100}


def test_what_threads_mend_is_told_by_the_launch(told):
    def elsewhere():
        threads = [threading.Thread(target=repaired, args=("lease", f"lease {one}")) for one in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    assert told("shown", elsewhere)[2] == {"lease": 8}


def test_a_worker_s_repairs_come_with_its_answer():
    """In the message that a worker sends, and nowhere a second time."""
    repaired("service", "service is asked again")
    message = pack_answer({"rows": 3})
    assert repairs.taken() == []
    assert unpack(message) == ({"rows": 3}, [Repair("service", "service is asked again")])
    assert unpack_answer(message) == {"rows": 3}
    assert repairs.taken() == [Repair("service", "service is asked again")]
    assert pickle.loads(pack_answer(None))[1] == []


def test_a_watcher_that_fails_is_left_out_and_told():
    class Broken(Observer):
        def say(self, line):
            raise OSError("no")

    many = Observers(Observer(), [Broken()])
    many.say("one")
    many.say("two")
    (one,) = repairs.taken()
    assert one.kind == "watcher"
    assert "Broken failed and receives no more events" in one.what
