"""The processes of a driver: they run no code of the working folder, hold no secret of others, and end with it."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import yaml

from actors.backends.local_ray import LocalRay
from actors.workers import code_digest
from study.errors import StudyError
from study.process import children as processes
from study.storage import s3_path
from tests.conftest import ROOT
from tests.processes import alive, descendants, finish, gone
from tests.services import FakeService, by_brightness

SMALL = {
    "study": "small",
    "images": {"sample": "foolbox", "size": 48, "keep": "all", "count": 4},
    "models": {"c": {"network": "timm:test_resnet", "weights": "random:2", "size": 56}},
    "attacks": {"mi": {"steps": 2}},
    "experiments": {"single": {"attacks": ["mi"], "sources": ["c"]}},
    "numerics": {"batch": 2, "threads": 1},
    "run": {"shard": 2, "actors": 1, "flush_seconds": 0},
}
NAMES = ("numpy", "torch", "timm", "typer", "ray", "wandb", "polars", "setproctitle", "cli", "json", "queue", "random")
SCRIPT = "import sys\nfrom study.command_line import main\nsys.exit(main())\n"
"""What pip makes of `study = study.command_line:main`."""


@pytest.fixture
def console_script(tmp_path):
    """Starts `study` as it is installed, in a working folder."""
    script = tmp_path / "bin" / "study"
    script.parent.mkdir()
    script.write_text(SCRIPT)

    def run(folder, *words, **more) -> subprocess.Popen:
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("RAY_", "PYTHONPATH", "WANDB_"))}
        return subprocess.Popen(
            [sys.executable, str(script), *map(str, words)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=folder,
            env=kept | more,
            start_new_session=True,
        )

    return run


def set_traps(folder: Path, traces: Path, names) -> None:
    """Modules that leave a trace when they are imported, and then fail."""
    traces.mkdir(exist_ok=True)
    for name in names:
        path = folder / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"open({str(traces / path.stem)!r}, 'a').close()\nraise RuntimeError('a trap: {name}')\n")


@pytest.mark.parametrize(
    "words",
    [["-m", "cli", "schema"], ["SCRIPT", "validate", str(ROOT / "specs" / "quickstart.yaml")]],
    ids=["module", "script"],
)
def test_the_door_imports_nothing_of_the_working_folder(tmp_path, words):
    set_traps(tmp_path / "work", tmp_path / "traces", [name for name in [*NAMES, "study", "pathlib"] if name != "cli"])
    (tmp_path / "study-script").write_text(SCRIPT)
    words = [str(tmp_path / "study-script") if word == "SCRIPT" else word for word in words]
    done = subprocess.run(
        [sys.executable, *words],
        capture_output=True,
        text=True,
        cwd=tmp_path / "work",
        check=False,
    )
    assert [path.name for path in (tmp_path / "traces").iterdir()] == []
    assert done.returncode == 0, done.stderr


NETWORK = """
import json, os, sys, uuid
from torch import nn

def make():
    said = {"pid": os.getpid(), "environment": dict(os.environ), "path": sys.path}
    with open(os.path.join(FOLDER, uuid.uuid4().hex + ".json"), "w") as file:
        json.dump(said, file)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 1000))
"""
SECRETS = {
    "SVC_AUTHORITY": "the-token-of-the-service",
    "WANDB_API_KEY": "f" * 40,
    "AWS_SECRET_ACCESS_KEY": "the-key-of-the-store",
    "MINE_API_KEY": "the-key-of-something-else",
    "HF_TOKEN": "the-token-for-weights",
}


def environments(pids) -> dict[int, tuple[str, bytes]]:
    """What processes run, and the environments that they were started with."""
    found = {}
    for pid in pids:
        entry = Path(f"/proc/{pid}")
        try:
            found[pid] = ((entry / "cmdline").read_bytes().decode(), (entry / "environ").read_bytes())
        except OSError:
            continue
    return found


def test_the_processes_of_a_launch(console_script, tmp_path):
    """They import nothing of the working folder, get no secret of others, leave none behind, and end, although the
    reaper is stopped; nothing needs a writable home directory.

    The working folder holds modules that leave a trace, and a changed copy of the project. Networks of the user's own,
    named by a file of the working folder and by a module of `PYTHONPATH`, still load.
    """
    folder, traces, run, told = (tmp_path / name for name in ("work", "traces", "run", "told"))
    set_traps(folder, traces, [*NAMES, "actors/__init__", "actors/backends/reaper"])
    shutil.copytree(ROOT / "study", folder / "study", ignore=shutil.ignore_patterns("__pycache__"))
    with (folder / "study" / "__init__.py").open("a") as package:
        package.write(f"\nopen({str(traces / 'study')!r}, 'a').close()\n")
    told.mkdir()
    for path in (folder / "nets" / "mine.py", tmp_path / "lent" / "of_a_friend.py"):
        path.parent.mkdir()
        path.write_text(NETWORK.replace("FOLDER", repr(str(told))))
    asked, go_on = threading.Event(), threading.Event()

    def classify(pixels):
        asked.set()
        assert go_on.wait(100)
        return by_brightness(pixels)

    own = {"size": 48, "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5], "weights": "random:1"}
    with FakeService(classify) as fake:
        remote = {"url": fake.url, "credentials": {"env": "SVC_AUTHORITY"}, "rate": 500, "timeout": 100, "top": 2}
        models = {
            "mine": {"network": "python:nets/mine.py:make", **own},
            "lent": {"network": "python:of_a_friend:make", **own},
            "service": {"remote": {**remote, "names": {str(index): str(index) for index in range(1000)}}},
        }
        experiments = {"single": {"attacks": ["mi"], "sources": ["mine", "lent"]}}
        (tmp_path / "spec.yaml").write_text(yaml.safe_dump(SMALL | {"models": models, "experiments": experiments}))
        words = ["launch", tmp_path / "spec.yaml", "--output", run, "--wandb", "offline", "--allow-code"]
        home = {"HOME": "/proc/nobody", "XDG_CACHE_HOME": "", "XDG_CONFIG_HOME": ""}
        more = {"PYTHONPATH": str(tmp_path / "lent"), "NO_PROXY": "127.0.0.1", **home, **SECRETS}
        process = console_script(folder, *words, **more)
        try:
            assert asked.wait(200), process.poll()
            children = environments(descendants(process.pid) - {process.pid})
            reaper = next(pid for pid, (said, _) in children.items() if "reaper.py" in said)
            os.kill(reaper, signal.SIGSTOP)
        finally:
            go_on.set()
        status, printed = finish(process, 240)

    assert [path.name for path in traces.iterdir()] == []
    assert status == 0, printed
    assert f"(process {reaper}) did not answer" in printed
    assert "no process of Ray is left" in printed
    assert "W&B: upload the run with" in printed
    assert "some data is not logged" not in printed
    assert gone(set(children), 5), environments(alive(set(children)))
    assert {one.headers["Authorization"] for one in fake.requests} == {"Bearer the-token-of-the-service"}
    assert any("raylet" in said for said, _ in children.values())
    for said, environ in children.values():
        held = {name for name, value in SECRETS.items() if value.encode() in environ}
        allowed = {"WANDB_API_KEY"} if "study.tracking" in said else set() if "reaper.py" in said else {"HF_TOKEN"}
        assert held <= allowed, said
    workers = [one for one in map(json.loads, (path.read_text() for path in told.iterdir())) if one["pid"] in children]
    assert workers, "models are loaded in workers"
    for one in workers:
        assert {name: one["environment"].get(name) for name in SECRETS} == {
            **dict.fromkeys(SECRETS),
            "HF_TOKEN": "the-token-for-weights",
        }
        assert not {"", ".", str(folder), str(tmp_path / "bin")} & set(one["path"])
        assert str(tmp_path / "lent") in one["path"]
    credential = SECRETS["SVC_AUTHORITY"]
    assert credential not in printed
    search = ["grep", "-rl", "-D", "skip", credential, str(run), "/tmp/ray"]
    assert subprocess.run(search, capture_output=True, text=True, check=False).stdout == ""


def sleeper(**more) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(100)"], **more)


def test_a_local_ray_s_processes_are_ended_and_no_others():
    before = dict(os.environ)
    others = [sleeper()]
    ray = LocalRay(grace_seconds=0.3)
    with ray.starting():
        ours = sleeper()
    others.append(sleeper())
    try:
        assert dict(os.environ) == before
        assert ray.close() is None
        assert ours.wait(5) == -signal.SIGKILL
        time.sleep(0.2)
        assert [one.poll() for one in others] == [None, None]
    finally:
        for one in (ours, *others):
            one.kill()
            one.wait()


def test_a_process_that_ends_by_itself_is_given_time():
    ray = LocalRay(grace_seconds=5)
    with ray.starting():
        ours = subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(0.5)"])
    # Nobody waits for Ray's processes but their own parents: here this is the parent.
    threading.Thread(target=ours.wait).start()
    assert ray.close() is None
    assert ours.wait() == 0


def test_they_end_with_a_killed_driver():
    """The driver gets no chance to say anything; what its child has started since ends too."""
    child = "import subprocess, time; subprocess.Popen(['sleep', '100']); time.sleep(100)"
    program = (
        "import os, signal, subprocess, sys; from actors.backends.local_ray import LocalRay\n"
        "ray = LocalRay(grace_seconds=0.3)\n"
        f"with ray.starting(): ours = subprocess.Popen([sys.executable, '-S', '-c', {child!r}])\n"
        "sys.stdin.readline()\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    driver = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, cwd=ROOT)
    deadline = time.monotonic() + 30
    while not any("sleep\x00100" in said for said, _ in environments(descendants(driver.pid)).values()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    below = descendants(driver.pid) - {driver.pid}
    assert len(below) == 3, "the reaper, a child, and its child"
    driver.communicate(b"\n")
    assert gone(below, 10), environments(alive(below))


def test_what_has_lost_its_mark_and_its_parent_ends_too():
    """As Ray's agents: they overwrite their environment, and the raylet that started them is gone."""
    child = "import subprocess, time; subprocess.Popen(['sleep', '100'], env={}); time.sleep(100)"
    ray = LocalRay(grace_seconds=0.3)
    with ray.starting():
        ours = subprocess.Popen([sys.executable, "-S", "-c", child])
    time.sleep(3)
    below = descendants(ours.pid) - {ours.pid}
    assert len(below) == 1
    ours.kill()
    ours.wait()
    assert ray.close() is None
    assert gone(below, 5)


def test_a_stopped_reaper_is_waited_for_no_longer_than_so():
    ray = LocalRay(grace_seconds=0.3, patience_seconds=0.2)
    with ray.starting():
        ours = sleeper()
    os.kill(ray.reaper, signal.SIGSTOP)
    threading.Thread(target=ours.wait).start()
    began = time.monotonic()
    said = ray.close()
    assert time.monotonic() - began < 5
    assert said is not None
    assert "did not answer for 0.5 s" in said
    assert "no process of Ray is left" in said
    assert ours.wait(5) == -signal.SIGKILL
    assert gone({ray.reaper}, 1)


GIVEN = {
    "PATH": "/bin",
    "HOME": "/home/one",
    "CUDA_VISIBLE_DEVICES": "0",
    "HTTPS_PROXY": "http://proxy",
    "TOKENIZERS_PARALLELISM": "false",
    "WANDB_API_KEY": "w",
    "WANDB_ENTITY": "team",
    "AWS_REGION": "r",
    "AWS_SECRET_ACCESS_KEY": "a",
    "RAY_AUTH_TOKEN": "t",
    "HF_TOKEN": "h",
    "GITHUB_TOKEN": "g",
    "DB_PASSWORD": "p",
    "SERVICE_KEY": "s",
}
COMMON = {"PATH", "HOME", "CUDA_VISIBLE_DEVICES", "HTTPS_PROXY", "TOKENIZERS_PARALLELISM"}


@pytest.mark.parametrize(
    ("kind", "gets"),
    [
        (processes.RAY, COMMON | {"RAY_AUTH_TOKEN", "HF_TOKEN"}),
        (processes.TRACKER, COMMON | {"WANDB_API_KEY", "WANDB_ENTITY"}),
        (
            processes.TRACKER_OF_STORE,
            COMMON | {"WANDB_API_KEY", "WANDB_ENTITY", "AWS_REGION", "AWS_SECRET_ACCESS_KEY"},
        ),
        (processes.HELPER, {"PATH"}),
    ],
    ids=["ray", "tracker", "tracker-of-store", "helper"],
)
def test_who_gets_which_variables(kind, gets):
    made = processes.environment(kind, GIVEN, hidden=["SERVICE_KEY"])
    assert GIVEN.keys() & made.keys() == gets
    assert made["PYTHONSAFEPATH"] == "1"


def test_a_credential_goes_to_no_process_whatever_its_name():
    assert "HF_TOKEN" not in processes.environment(processes.RAY, GIVEN, hidden=["HF_TOKEN"])


def test_what_stands_empty_in_the_search_path_is_not_the_working_folder():
    made = processes.environment(processes.RAY, {"PYTHONPATH": f":{ROOT}::relative:"})
    assert made["PYTHONPATH"] == f"{ROOT}{os.pathsep}{os.path.abspath('relative')}"


def test_the_driver_s_own_code_is_found_where_it_is_not_installed(tmp_path):
    """A copy that runs from its folder starts processes that run the copy, not what is installed."""
    for package in ("study", "actors"):
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    program = (
        "import os, subprocess, sys; from study.process import children as processes\n"
        "given = processes.environment(processes.TRACKER, os.environ)\n"
        "asked = [sys.executable, '-c', 'import study; print(study.__file__)']\n"
        "print(subprocess.run(asked, env=given, cwd='/', capture_output=True, text=True).stdout)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(tmp_path / "study" / "__init__.py")


def test_the_environment_is_itself_again_and_known_meanwhile(monkeypatch):
    monkeypatch.setenv("KEPT", "1")
    monkeypatch.setenv("CHANGED", "before")
    monkeypatch.setenv("MISSING", "secret")
    before = dict(os.environ)
    inner = {**before, "CHANGED": "inside", "NEW": "1"}
    del inner["MISSING"]
    with contextlib.suppress(ZeroDivisionError), processes.replaced_environment(inner):
        assert dict(os.environ) == inner
        assert dict(processes.driver_environment()) == before
        os.environ["SET_BY_A_LIBRARY"] = "1"
        raise ZeroDivisionError
    assert os.environ.pop("SET_BY_A_LIBRARY") == "1"
    assert dict(os.environ) == before
    assert processes.driver_environment() is os.environ


def test_a_store_is_known_while_ray_starts(monkeypatch):
    """Its lease is renewed by a thread, also while the environment has none of its keys."""
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "a")
    with LocalRay(grace_seconds=0.1).starting():
        assert "AWS_SECRET_ACCESS_KEY" not in os.environ
        assert s3_path.scan_options()["aws_secret_access_key"] == "a"


def test_a_worker_with_the_driver_s_code_says_what_it_computes_on():
    assert code_digest.answer_of(code_digest.greeting("a processor")) == "a processor"
    assert code_digest.answer_of(code_digest.greeting(None)) is None


@pytest.mark.parametrize(
    ("said", "part"),
    [
        (
            {"answer": b"", "machine": "node7", "folder": "/old", "digest": "0" * 64},
            "a worker on node7 runs other code than the driver: /old (000000000000…)",
        ),
        ("a processor", "a worker runs other code than the driver: another version"),
        (None, "a worker runs other code than the driver: another version"),
    ],
    ids=["other", "without a proof", "silent"],
)
def test_a_worker_with_other_code_is_refused(said, part):
    with pytest.raises(StudyError) as refused:
        code_digest.answer_of(said)
    assert part in str(refused.value)
    assert code_digest.running().folder in str(refused.value)
    assert "same version" in str(refused.value)


def test_every_module_counts(tmp_path):
    for package in ("study", "actors"):
        (tmp_path / package / "inner").mkdir(parents=True)
        (tmp_path / package / "inner" / "one.py").write_text("a = 1\n")
    first = code_digest.digest_of(tmp_path)
    (tmp_path / "study" / "__pycache__").mkdir()
    (tmp_path / "study" / "__pycache__" / "one.pyc").write_text("")
    assert code_digest.digest_of(tmp_path) == first
    (tmp_path / "actors" / "inner" / "one.py").write_text("a = 2\n")
    second = code_digest.digest_of(tmp_path)
    (tmp_path / "actors" / "inner" / "one.py").rename(tmp_path / "actors" / "inner" / "two.py")
    assert len({first, second, code_digest.digest_of(tmp_path)}) == 3
