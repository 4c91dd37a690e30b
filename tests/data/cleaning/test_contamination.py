from llama_factory.data.cleaning.contamination import Contamination
from llama_factory.data.seen import open_seen
from tests.data.rows import LONG_ANSWER, LONG_QUESTION, after, chat, prepared, selection_of, write

CHANGED = LONG_ANSWER.replace("same", "very same")
ROW = {"instruction": LONG_QUESTION, "output": LONG_ANSWER}


def test_a_row_nearly_the_same_as_a_held_out_one_is_not_taught(tmp_path):
    rows = selection_of(
        tmp_path,
        [chat(LONG_QUESTION, LONG_ANSWER), chat(LONG_QUESTION.lower(), CHANGED)],
        test={0},
    )
    left = after(Contamination(), rows)
    assert left.train.tolist() == []
    assert left.test.tolist() == [0]


def test_a_question_nearly_the_same_is_not_taught_whatever_its_answer(tmp_path):
    asked = [
        LONG_QUESTION,
        LONG_QUESTION.replace("?", " ?").upper(),
        "Something else entirely, please?",
    ]
    rows = selection_of(
        tmp_path, [chat(q, a * 5) for q, a in zip(asked, "abc", strict=True)], test={0}
    )
    left = after(Contamination(), rows)
    assert left.train.tolist() == [2]


def test_rows_held_out_by_an_earlier_version_count(tmp_path):
    test = write(tmp_path / "faq.test.jsonl", [ROW])
    before = prepared(tmp_path / "1", test)
    seen = open_seen({"v0001": before.folder}, tmp_path / "cache")
    data = prepared(
        tmp_path / "2",
        write(
            tmp_path / "b.jsonl", [ROW | {"instruction": LONG_QUESTION.upper(), "output": CHANGED}]
        ),
        seen=seen,
    )
    assert data.report.dropped == {"nearly the same is held out in v0001": 1}


def test_a_test_row_nearly_the_same_as_one_taught_before_is_not_used(tmp_path):
    before = prepared(tmp_path / "1", write(tmp_path / "a.jsonl", [ROW]))
    seen = open_seen({"v0001": before.folder}, tmp_path / "cache")
    data = prepared(
        tmp_path / "2", write(tmp_path / "b.test.jsonl", [ROW | {"output": CHANGED}]), seen=seen
    )
    assert data.held_out == ()
    assert data.report.dropped == {"a test nearly the same as one taught in v0001": 1}
