import json

import pytest

from llama_factory.core.errors import DataError
from llama_factory.core.types import TEXT, Example, Message
from llama_factory.evaluation.comparison import ALL, compare
from llama_factory.evaluation.metrics import METRICS
from llama_factory.evaluation.scoring import score_task
from llama_factory.evaluation.task_rows import Prediction, TaskRow
from llama_factory.evaluation.tasks import EvalTask


def row(number, answer):
    return Example(
        (Message("user", f"第{number}题"), Message("assistant", answer)), "g", "f", number
    )


ROWS = [row(number, "是" if number % 2 else "不是") for number in range(20)]
TEXTS = [Example((Message(TEXT, f"第{number}天。"),), "g", "f", number) for number in range(4)]


def scored(name, answers, rows=ROWS, metrics=("accuracy", "macro_f1"), nats=10.0):
    task = EvalTask(name, tuple(map(TaskRow, rows)), tuple(map(METRICS.parse, metrics)), 8, 512)
    predictions = [
        Prediction(
            name,
            each.prompt[-1].content,
            "" if each.is_text else each.answer,
            answer,
            nats=nats,
            tokens=5,
            key=each.key,
        )
        for each, answer in zip(rows, answers, strict=True)
    ]
    return score_task(task, predictions)


RIGHT = [each.answer for each in ROWS]
HALF = [answer if number < 10 else "不知道" for number, answer in enumerate(RIGHT)]


def by_name(found):
    return {(each.task, each.metric): each for each in found.scores}


def test_a_clear_gain_is_told_with_its_interval_and_its_rows():
    found = compare(
        {"t": scored("t", HALF, nats=20.0)}, {"t": scored("t", RIGHT)}, names=("a", "b")
    )
    gain = by_name(found)["t", "accuracy"]
    assert (gain.before.value, gain.after.value, gain.difference.value) == (0.5, 1.0, 0.5)
    assert 0.2 < gain.difference.low < 0.5 < gain.difference.high < 0.8
    assert gain.is_better is True
    assert by_name(found)["t", "macro_f1"].is_better is True
    assert by_name(found)["t", "perplexity"].difference.value < 0
    assert by_name(found)["t", "perplexity"].is_better is True
    assert found.worse == ()
    assert [each.after for each in found.better] == RIGHT[10:]
    assert found.better[0].before == "不知道"


def test_the_other_way_round_it_is_a_loss():
    found = compare(
        {"t": scored("t", RIGHT)}, {"t": scored("t", HALF, nats=20.0)}, names=("b", "a")
    )
    assert {each.is_better for each in found.scores} == {False}
    assert len(found.worse) == 10
    assert found.better == ()


def test_a_change_within_chance_is_no_verdict():
    mixed = [*RIGHT[:1], "不知道", *RIGHT[2:]]
    other = ["不知道", *RIGHT[1:]]
    found = compare({"t": scored("t", mixed)}, {"t": scored("t", other)}, names=("a", "b"))
    assert by_name(found)["t", "accuracy"].is_better is None
    assert by_name(found)["t", "accuracy"].difference.value == 0
    assert len(found.worse) == len(found.better) == 1


def test_several_tasks_are_summed_up_over_all_rows():
    before = {"t": scored("t", HALF), "u": scored("u", RIGHT)}
    after = {"t": scored("t", RIGHT), "u": scored("u", RIGHT)}
    found = by_name(compare(before, after, names=("a", "b")))
    assert found[ALL, "accuracy"].difference.value == 0.25
    assert found[ALL, "accuracy"].difference.count == 40
    assert (ALL, "perplexity") in found


def test_plain_text_is_compared_by_its_likelihood():
    answers = [""] * len(TEXTS)
    before, after = (scored("w", answers, rows=TEXTS, nats=nats) for nats in (10.0, 5.0))
    found = compare({"w": before}, {"w": after}, names=("a", "b"))
    assert [each.metric for each in found.scores] == ["perplexity"]
    assert found.scores[0].is_better is True
    assert found.better == ()


def test_a_metric_of_which_lower_is_better_is_read_that_way_round():
    loop = "说了又说了又说了又说了又说了又说"
    before = scored("t", [loop] * 20, metrics=("repetition",))
    after = scored("t", RIGHT, metrics=("repetition",))
    found = compare({"t": before}, {"t": after}, names=("a", "b"))
    assert found.scores[0].difference.value < 0
    assert found.scores[0].is_better is True
    assert len(found.better) == 20


def test_models_that_were_asked_different_rows_are_not_compared():
    with pytest.raises(DataError, match="were asked different rows"):
        compare({"t": scored("t", RIGHT)}, {"u": scored("u", RIGHT)}, names=("a", "b"))
    others = [row(number + 100, "是") for number in range(20)]
    with pytest.raises(DataError, match="were asked different rows"):
        compare({"t": scored("t", RIGHT)}, {"t": scored("t", RIGHT, others)}, names=("a", "b"))


def test_a_comparison_is_plain_json():
    found = compare({"t": scored("t", HALF)}, {"t": scored("t", RIGHT)}, names=("a", "b"))
    values = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert values["scores"][0]["difference"]["value"] == 0.5
    assert values["better"][0]["expected"] == RIGHT[10]
