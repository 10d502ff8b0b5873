"""What docs/cluster.md and the files beside it say: commands and options that exist, manifests that parse."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
import typer.main
import yaml
from ray.scripts.scripts import cli as ray_cli

from cli import app

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "cluster.md"
FILES = ROOT / "docs" / "cluster"

POD = {"containers", "volumes", "nodeSelector", "tolerations"}
KNOWN = {
    "": {"apiVersion", "kind", "metadata", "spec"},
    "spec": {
        *("entrypoint", "backoffLimit", "submissionMode", "shutdownAfterJobFinishes", "ttlSecondsAfterFinished"),
        "rayClusterSpec",
    },
    "spec.rayClusterSpec": {"rayVersion", "authOptions", "headGroupSpec", "workerGroupSpecs"},
    "spec.rayClusterSpec.authOptions": {"mode", "secretName"},
    "spec.rayClusterSpec.headGroupSpec": {"rayStartParams", "template"},
    "spec.rayClusterSpec.headGroupSpec.template.spec": POD,
    "spec.rayClusterSpec.workerGroupSpecs.0": {
        *("groupName", "replicas", "minReplicas", "maxReplicas", "rayStartParams", "template"),
    },
    "spec.rayClusterSpec.workerGroupSpecs.0.template.spec": POD,
}
"""The fields of KubeRay's ray.io/v1 and of pods that are used, from their reference."""


def _commands(text: str) -> list[list[str]]:
    """The `study` and `ray` commands in the code blocks of a page, as words."""
    blocks = re.findall(r"^```(?:bash)?\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True)) and words[0] in ("study", "ray")]


def _entry(words: list[str]) -> tuple[list[str], list[str]]:
    """What stands before `--`, and the command behind it."""
    if "--" not in words:
        return words, []
    place = words.index("--")
    return words[:place], words[place + 1 :]


def _check(command: Any, words: list[str]) -> None:
    """Every command and option in `words` is one that `command`, a click group, has."""
    rest = list(words)
    while rest and hasattr(command, "commands"):
        assert rest[0] in command.commands, f"{shlex.join(words)}: there is no command {rest[0]}"
        command = command.commands[rest.pop(0)]
    known = {name for option in command.params for name in (*option.opts, *option.secondary_opts)}
    for word in rest:
        if word.startswith("-"):
            assert word.partition("=")[0] in known, f"{shlex.join(words)}: there is no option {word}"


COMMANDS = _commands(PAGE.read_text())


def test_there_are_commands():
    assert {words[0] for words in COMMANDS} == {"study", "ray"}
    assert any("submit" in words for words in COMMANDS)


@pytest.mark.parametrize("words", COMMANDS, ids=shlex.join)
def test_commands_and_options_exist(words):
    outer, inner = _entry(words)
    _check(typer.main.get_command(app) if outer[0] == "study" else ray_cli, outer[1:])
    if inner:
        after = inner[inner.index("cli") + 1 :] if "cli" in inner else inner[1:]
        _check(typer.main.get_command(app), after)
        spec = next(word for word in after if word.endswith(".yaml"))
        assert (ROOT / spec).is_file()


def test_links_of_the_page_lead_somewhere():
    for target in re.findall(r"\]\(([^)#:]+)\)", PAGE.read_text()):
        assert (PAGE.parent / target).exists(), target


@pytest.fixture(scope="module")
def job() -> dict[str, Any]:
    documents = list(yaml.safe_load_all((FILES / "kuberay.yaml").read_text()))
    assert [one["kind"] for one in documents] == ["PersistentVolumeClaim", "RayJob"]
    assert documents[1]["apiVersion"] == "ray.io/v1"
    return documents[1]


def _at(tree: Any, path: str) -> Any:
    for key in filter(None, path.split(".")):
        tree = tree[int(key)] if isinstance(tree, list) else tree[key]
    return tree


@pytest.mark.parametrize("path", KNOWN, ids=lambda path: path or "top")
def test_fields_of_the_manifest_are_known(job, path):
    assert set(_at(job, path)) <= KNOWN[path]


def test_the_manifest_says_what_the_code_does(job):
    _check(typer.main.get_command(app), shlex.split(job["spec"]["entrypoint"])[1:])
    pinned = re.search(r"^ray==(\S+)", (ROOT / "constraints.txt").read_text(), flags=re.MULTILINE)
    cluster = job["spec"]["rayClusterSpec"]
    assert pinned
    assert cluster["rayVersion"] == pinned[1]
    start = ray_cli.commands["start"]
    known = {name.lstrip("-") for option in start.params for name in option.opts}
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        assert set(group["rayStartParams"]) <= known
        assert all(isinstance(value, str) for value in group["rayStartParams"].values())
        (container,) = group["template"]["spec"]["containers"]
        volumes = {one["name"] for one in group["template"]["spec"]["volumes"]}
        assert {one["name"] for one in container["volumeMounts"]} <= volumes


def test_the_slurm_script_parses():
    script = FILES / "slurm.sh"
    assert subprocess.run(["bash", "-n", script], check=False).returncode == 0
    for line in re.findall(r"^.*?\b(?:study launch|ray start|ray status)\b.*$", script.read_text(), flags=re.MULTILINE):
        if line.startswith("#"):
            continue
        found = re.search(r"\b(study|ray) (\w+)((?: --[\w-]+)*)", line)
        assert found
        group = typer.main.get_command(app) if found[1] == "study" else ray_cli
        _check(group, [found[2], *re.findall(r"--[\w-]+", line[found.start() :])])
