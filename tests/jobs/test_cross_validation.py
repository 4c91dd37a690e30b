import pytest

from llama_factory.core.errors import DataError
from llama_factory.core.types import Example, Message
from llama_factory.evaluation.metrics import METRICS
from llama_factory.evaluation.task_rows import Prediction
from llama_factory.evaluation.tasks import EvalTask
from llama_factory.jobs.cross_validation import make_folds, score_folds


def row(number, group="售后", answer="是"):
    return Example(
        (Message("user", f"{group}{number}"), Message("assistant", answer)), group, "f", 1
    )


ROWS = [row(number, group) for group in ("售后", "faq") for number in range(10)]
EXAM = EvalTask("all", (), (METRICS.parse("exact_match"),), 8, 512)


def test_every_row_is_tested_once_and_taught_in_all_other_folds():
    folds = make_folds(ROWS, 5)
    assert sorted(each.key for fold in folds for each in fold.test) == sorted(r.key for r in ROWS)
    for fold in folds:
        assert len(fold.train) + len(fold.test) == len(ROWS)
        assert not {r.key for r in fold.train} & {r.key for r in fold.test}


def test_every_fold_gets_its_share_of_each_group():
    for fold in make_folds(ROWS, 5):
        groups = [each.group for each in fold.test]
        assert groups.count("售后") == groups.count("faq") == 2


def test_rows_that_ask_the_same_stay_together():
    twice = [*ROWS, *(row(number, answer="不是") for number in range(10))]
    for fold in make_folds(twice, 4):
        assert not {r.prompt_key for r in fold.train} & {r.prompt_key for r in fold.test}


def test_folds_depend_on_content_and_seed_alone():
    folds = make_folds(ROWS, 4)
    assert [{r.key for r in fold.test} for fold in folds] == [
        {r.key for r in fold.test} for fold in make_folds(ROWS[::-1], 4)
    ]
    assert [f.test for f in folds] == [f.test for f in make_folds(ROWS, 4)]
    assert [f.test for f in folds] != [f.test for f in make_folds(ROWS, 4, seed=1)]


@pytest.mark.parametrize("count", [1, 21])
def test_more_folds_than_prompts_are_refused(count):
    with pytest.raises(DataError, match="the rows have 20 different prompts. Give from 2 to 20"):
        make_folds(ROWS, count)


def test_scores_of_the_folds_are_put_together_by_row():
    def answer(fold, task):
        said = "是" if fold.number == 1 else "不是"
        return [
            Prediction(task.name, "p", each.expected, said, nats=1, tokens=1, key=each.example.key)
            for each in task.rows
        ]

    found = score_folds(make_folds(ROWS, 4), EXAM, answer)
    assert [each.scores["exact_match"].value for each in found.folds] == [1, 0, 0, 0]
    assert found.result.scores["exact_match"].value == 0.25
    assert found.result.count == 20
    assert found.result.scores["exact_match"].low < 0.25 < found.result.scores["exact_match"].high
    assert found.spread["exact_match"] == pytest.approx(0.5)
    assert found.to_json()["all"]["scores"]["exact_match"]["value"] == 0.25
