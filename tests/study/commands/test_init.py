"""`study init` asks again after a mistake, checks what is typed, and writes a spec that is valid."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import pytest
from PIL import Image

from study.commands.init import InitOptions, write_spec
from study.errors import StudyError
from study.spec.loading import load


def asked(path: Path, answers: dict[str, list[str]], options: InitOptions | None = None) -> tuple[list[str], list[str]]:
    """The questions that were asked, in order, and what was said; `answers` are by a word of the question."""
    questions: list[str] = []
    said: list[str] = []

    def ask(question: str, default: str) -> str:
        questions.append(question)
        word = next(one for one in answers if one in question)
        return answers[word].pop(0) if answers[word] else default

    write_spec(path, options or InitOptions(), said.append, ask)
    return questions, said


def folder_of(place: Path, images: int) -> Path:
    """A folder with images of one ImageNet class."""
    (place / "n01440764").mkdir(parents=True)
    for number in range(images):
        Image.new("RGB", (32, 32), (number, 9, 9)).save(place / "n01440764" / f"{number}.png")
    return place


def test_every_mistake_is_explained_and_asked_for_again(tmp_path):
    images = folder_of(tmp_path / "val", 3)
    answers = {
        "name of the study": ["two words / slash", "mine"],
        "images: a folder": [str(tmp_path / "nowhere"), str(images)],
        "number of images": ["many", "0", "4", "2"],
        "models": ["resnt50", "resnet50, vgg16"],
        "attacks": ["MIFGSM2", "mi, fgsm, optimization"],
        "budget": ["lots", "0.03", "8/255"],
    }
    questions, said = asked(tmp_path / "mine.yaml", {word: list(given) for word, given in answers.items()})
    for word, given in answers.items():
        assert sum(word in question for question in questions) == len(given)
    explained = "\n".join(said)
    for part in (
        f"there is no folder {tmp_path / 'nowhere'}",
        "'many' is not a possible number of images",
        "1 to 3",
        "no model has the short name 'resnt50'",
        "resnet50 (the nearest)",
        "an epsilon of 0.03 moves no pixel",
    ):
        assert part in explained
    spec = load(tmp_path / "mine.yaml").spec
    assert (spec.study, spec.images.count, spec.images.folder) == ("mine", 2, str(images))
    assert list(spec.models) == ["resnet50", "vgg16"]
    assert {name: one.budget.epsilon for name, one in spec.attacks.items()} == {
        "mi": 8.0,
        "fgsm": 8.0,
        "optimization": None,
    }


def test_attacks_without_an_epsilon_have_no_question_about_it(tmp_path):
    questions, _ = asked(tmp_path / "x.yaml", {"attacks": ["optimization"], "": []})
    assert not any("budget" in question for question in questions)


def test_an_option_is_not_asked_for_and_a_wrong_one_ends_the_command(tmp_path):
    given = InitOptions("x", count=3, models=("resnet50",), attacks=("mi",), epsilon="4")
    questions, _ = asked(tmp_path / "x.yaml", {"images": []}, given)
    assert len(questions) == 1
    assert load(tmp_path / "x.yaml").spec.attacks["mi"].budget.epsilon == 4
    for wrong in (InitOptions(count=21), InitOptions(epsilon="0.03"), InitOptions(attacks=("mii",))):
        with pytest.raises(StudyError):
            asked(tmp_path / "y.yaml", {"": []}, wrong)
    assert not (tmp_path / "y.yaml").exists()


def test_two_models_of_one_network_have_two_names(tmp_path):
    models = ("resnet50", "timm:resnet50.a1_in1k", "timm:resnet50.tv_in1k")
    given = InitOptions(models=models, attacks=("mi",))
    write_spec(tmp_path / "x.yaml", given, lambda line: None, None)
    found = load(tmp_path / "x.yaml").spec.models
    assert list(found) == ["resnet50", "resnet50-2", "resnet50-3"]
    assert [one.network for one in found.values()] == [
        "torchvision:resnet50", "timm:resnet50.a1_in1k", "timm:resnet50.tv_in1k"
    ]  # fmt: skip


@pytest.mark.parametrize("epsilon", ["lots", "8"])
def test_an_epsilon_that_no_attack_can_have_is_refused(tmp_path, epsilon):
    given = InitOptions(models=("resnet50",), attacks=("optimization", "fg-minimal"), epsilon=epsilon)
    with pytest.raises(StudyError) as error:
        write_spec(tmp_path / "x.yaml", given, lambda line: None, None)
    assert str(error.value) == (
        "no attack of this spec has an epsilon: optimization, fg-minimal\n"
        "  where:    --epsilon\n"
        "  accepted: an epsilon for attacks that have one, such as mi (`study attacks` shows their budgets)\n"
        "  to do:    leave out --epsilon, or name such an attack with --attack"
    )
    assert not (tmp_path / "x.yaml").exists()
    write_spec(tmp_path / "x.yaml", dataclasses.replace(given, epsilon="preset"), lambda line: None, None)
    assert load(tmp_path / "x.yaml").spec.attacks["optimization"].budget.kind == "none"


@pytest.mark.parametrize("epsilon", ["", "null", "8, steps: 3", "0", "256", "-8", "nan", "1e1", "8/256", "[2, 4]"])
def test_an_epsilon_is_one_length_and_nothing_else(tmp_path, epsilon):
    given = InitOptions(models=("resnet50",), attacks=("mi",), epsilon=epsilon)
    with pytest.raises(StudyError) as error:
        write_spec(tmp_path / "x.yaml", given, lambda line: None, None)
    assert str(error.value) == (
        f"'{epsilon}' is not a possible epsilon\n"
        "  where:    --epsilon\n"
        "  accepted: epsilon in pixel values 0..255, e.g. 8 or 8/255, or `preset` to keep each preset's budget"
    )
    assert not (tmp_path / "x.yaml").exists()


@pytest.mark.parametrize(
    ("epsilon", "length"),
    [("8", 8), ("8.5", 8.5), (" 8 / 255 ", 8), ("0.5/255", 0.5), ("255", 255), ("preset", 16)],
)
def test_forms_of_an_epsilon(tmp_path, epsilon, length):
    given = InitOptions(models=("resnet50",), attacks=("mi",), epsilon=epsilon)
    write_spec(tmp_path / "x.yaml", given, lambda line: None, None)
    assert load(tmp_path / "x.yaml").spec.attacks["mi"].budget.epsilon == length


def test_an_empty_folder_of_images_is_an_error_of_its_option(tmp_path):
    (tmp_path / "em").mkdir()
    given = InitOptions(images=str(tmp_path / "em"), models=("resnet50",), attacks=("mi",))
    with pytest.raises(StudyError) as error:
        write_spec(tmp_path / "x.yaml", given, lambda line: None, None)
    assert error.value.what == f"the folder {tmp_path / 'em'} has no images in folders that are named by labels"
    assert error.value.where == "--images"
    assert error.value.todo == "name another folder or `FOLDER, LIST.csv`, or foolbox; or correct the files there"


@pytest.mark.parametrize(
    ("wrong", "where"),
    [
        ({"epsilon": "lots"}, "--epsilon"),
        ({"epsilon": "0.03"}, "--epsilon"),
        ({"study": "a/b"}, "the name of the study"),
    ],
)
def test_no_message_names_a_line_of_a_file_that_is_not_written(tmp_path, wrong, where):
    given = InitOptions(**{"models": ("resnet50",), "attacks": ("mi",), **wrong})
    with pytest.raises(StudyError) as error:
        write_spec(tmp_path / "x.yaml", given, lambda line: None, None)
    assert error.value.where == where


def test_a_folder_of_another_machine_may_be_given_as_an_option(door, tmp_path):
    path = tmp_path / "far.yaml"
    assert door("init", path, "--images", "/data/val", "--count", "50", "--epsilon", "8/255")[0] == 0
    assert load(path).spec.images.count == 50


def test_a_list_of_labels(tmp_path):
    (tmp_path / "flat").mkdir()
    for number in range(2):
        Image.new("RGB", (32, 32), (number, 9, 9)).save(tmp_path / "flat" / f"{number}.png")
    (tmp_path / "labels.csv").write_text("file,label\n0.png,1\n1.png,2\n")
    asked(tmp_path / "x.yaml", {"images: a": [f"{tmp_path / 'flat'}, {tmp_path / 'labels.csv'}"], "": []})
    assert load(tmp_path / "x.yaml").spec.images.list == str(tmp_path / "labels.csv")


def test_on_a_terminal(tmp_path):
    """In true form: the console script on a terminal of 80 columns."""
    pexpect = pytest.importorskip("pexpect")
    code = "import cli, sys; sys.argv = ['study', 'init', 'mine.yaml']; sys.exit(cli.main())"
    child = pexpect.spawn(
        sys.executable, ["-c", code], cwd=tmp_path, dimensions=(24, 80), timeout=60, encoding="utf-8", echo=False
    )
    for question, answer in (
        ("name of the study", ""),
        ("images: a folder", "nowhere"),
        ("there is no folder nowhere.*images: a folder", ""),
        ("number of images, up to 20", "99"),
        ("1 to 20.*number of images", "4"),
        ("models, separated", ""),
        ("attacks, separated", "mi"),
        ("budget: epsilon", "8"),
    ):
        child.expect(f"(?s){question}.*?:")
        child.sendline(answer)
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 0
    spec = load(tmp_path / "mine.yaml").spec
    assert (spec.images.count, spec.attacks["mi"].budget.epsilon) == (4, 8)
