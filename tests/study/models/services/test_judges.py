"""Judging sentences: names of labels as whole words, refusals, and a second model's yes and no."""

from __future__ import annotations

import pytest

from study.errors import StudyError
from study.images.labels import label_set
from study.models.services.judges import Judging, Keywords, Second, judging, plain
from study.models.services.reply import Reply
from study.models.services.service_spec import Judge, Remote

ANIMALS = label_set(["cat", "tabby cat", "dog", "hot dog", "St. Bernard", "lady's slipper", "box"])
OWN = {"dog": ("puppy", "canine")}


@pytest.mark.parametrize(
    ("sentence", "names"),
    [
        ("A cat.", ("cat",)),
        ("CATS, two of them", ("cat",)),
        ("boxes", ("box",)),
        ("I see a tabby\n cat", ("tabby cat",)),
        ("a tabby-cat beside another cat", ("tabby cat", "cat")),
        ("a hot dog", ("hot dog",)),
        ("that puppy is hot, the dog too", ("puppy", "dog")),
        ("Saint? It is a st bernard", ("st. bernard",)),
        ("the lady\u2019s slipper", ("lady's slipper",)),
        ("concatenate doggedly", ()),
        ("", ()),
    ],
)
def test_keywords(sentence, names):
    assert Keywords(OWN, ANIMALS).names([sentence], [(0,)]) == [names]


def test_imagenet_has_a_name_for_every_label():
    imagenet = label_set("imagenet")
    found = Keywords({}, imagenet).names([imagenet.words(i)[0] for i in range(1000)], [()] * 1000)
    assert all(imagenet.words(index)[0].casefold() in names for index, names in enumerate(found))


@pytest.mark.parametrize(
    ("reply", "refused"),
    [
        (Reply((), (), "I\u2019m sorry, but I can't help with that."), True),
        (Reply((), (), "I cannot help. It looks like a cat."), False),
        (Reply((), (), "A vehicle."), False),
        (Reply((), (), " \n"), True),
        (Reply((), (), "!?"), True),
        (Reply((), (), "I will not name the cat.", refused=True), True),
    ],
)
def test_refusals(reply, refused):
    (verdict,) = Judging(Keywords(OWN, ANIMALS), Judge()).verdicts([reply], [(0,)])
    assert verdict.refused == refused
    assert not (refused and verdict.names)


class Yes:
    """A model that agrees where the label stands in the answer; it counts the questions."""

    def __init__(self, say):
        self.asked, self._say = [], say

    def ask_about(self, texts):
        self.asked += texts
        return [Reply((), (), self._say(text)) for text in texts]


def test_a_second_model_is_asked_about_each_sentence_and_label_once():
    model = Yes(lambda text: "Yes." if text.split("|")[1] == "cat" else "NO!")
    second = Second("{answer}|{label}", {}, ANIMALS, model, "chat")
    found = second.names(["A {label}.", "A {label}.", ""], [(0,), (0, 2), (0,)])
    assert found == [("cat",), ("cat",), ()]
    assert model.asked == ["A {label}.|cat", "A {label}.|dog"]


@pytest.mark.parametrize("said", ["perhaps", "yes and no", "", "nobody knows"])
def test_a_second_model_that_says_neither(said):
    with pytest.raises(StudyError, match="not yes or no"):
        Second("{answer} {label}", {}, ANIMALS, Yes(lambda text: said), "chat").names(["a"], [(0,)])


def test_plain():
    assert plain("  Caf\u00e9-au-lait, 'quoted' DON'T ") == "cafe au lait quoted don't"


@pytest.mark.parametrize("judge", [{"model": "b"}, {"model": "b", "prompt": None}])
def test_a_judging_model_without_a_prompt_is_asked_the_usual_question(tmp_path, judge):
    chat = {"url": "http://a/v1/chat/completions", "api": "chat", "model": "m", "prompt": "Name it."}
    remote = Remote.model_validate({**chat, "judge": judge})
    assert remote.judge.prompt.startswith("An image was described as follows.")
    assert isinstance(judging("service", remote, ANIMALS, secret=None, cache=tmp_path / "answers"), Judging)
