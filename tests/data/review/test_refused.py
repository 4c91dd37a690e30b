import pytest

from llama_factory.core import files
from llama_factory.core.errors import DataError
from llama_factory.data.review import folder as review
from llama_factory.data.review.cases import Choice
from tests.data.disputes import DROP, said


@pytest.fixture
def quarantine(tmp_path):
    rows = [
        {"line": 3, "reason": "this line is not valid JSON.", "row": '{"instruction": "你好", '},
        {"line": 5, "reason": "'output' is empty.", "row": '{"instruction": "a", "output": ""}'},
    ]
    files.write_jsonl(tmp_path / "quarantine/faq.jsonl.rows.jsonl", rows)
    (tmp_path / "quarantine/x.bin.reason.txt").write_text("no rows in it")
    return tmp_path / "quarantine"


def test_refused_rows_are_cases_that_are_mended_or_dropped(tmp_path, quarantine):
    first, second = review.add_refused(tmp_path / "review", quarantine)
    assert (first.kind, first.file, first.line) == ("refused", "faq.jsonl", 3)
    assert first.why == "this line is not valid JSON."
    mended = Choice(edited='{"instruction": "你好", "output": "您好！"}')
    assert review.decide(tmp_path / "review", first.id, "alice", mended).state == "resolved"
    assert review.decide(tmp_path / "review", second.id, "alice", DROP).state == "resolved"
    made = list(review.accepted_rows(tmp_path / "review"))
    assert [(each.answer, each.group, each.file, each.line) for each in made] == [
        ("您好！", "faq", "faq.jsonl", 3)
    ]
    assert review.add_refused(tmp_path / "review", quarantine) == []


def test_a_mended_row_needs_a_second_look_where_two_must_agree(tmp_path, quarantine):
    found = review.add_refused(tmp_path / "review", quarantine, always_second=True)[0]
    mended = Choice(edited='{"instruction": "你好", "output": "您好！"}')
    now = review.decide(tmp_path / "review", found.id, "alice", mended)
    assert now.level == "second"
    assert review.decide(tmp_path / "review", found.id, "bob", now.keep(1)).state == "resolved"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('{"instruction": ', r"faq.jsonl:3: this is still not valid JSON \(Expecting value, line"),
        ('{"instruction": "a", "output": ""}', "faq.jsonl:3: the row is still refused: "),
        ("[1]", "faq.jsonl:3: the row is still refused: "),
    ],
)
def test_a_row_that_is_not_mended_is_refused_again(tmp_path, quarantine, text, told):
    found = review.add_refused(tmp_path / "review", quarantine)[0]
    with pytest.raises(DataError, match=told):
        review.decide(tmp_path / "review", found.id, "alice", Choice(edited=text))
    with pytest.raises(DataError, match="has no answer to keep: its row was refused. Give the men"):
        found.keep(1)


def test_a_mended_row_that_is_no_row_any_more_is_told_and_can_be_taken_back(tmp_path, quarantine):
    folder = tmp_path / "review"
    found = review.add_refused(folder, quarantine)[0]
    mended = '{"instruction": "你好", "output": "您好！"}'
    review.decide(folder, found.id, "王芳", Choice(edited=mended))
    path = folder / review.DECISIONS
    path.write_text(path.read_text(encoding="utf-8").replace("output", "outptu"), encoding="utf-8")
    told = (
        f"case {found.id[:8]}: what 王芳 wrote on .* cannot be taught: faq.jsonl:3: the row is "
        f"still refused: .* Take it back: `.* --case {found.id[:8]} --take-back`."
    )
    for look in (review.summary, lambda folder: list(review.accepted_rows(folder))):
        with pytest.raises(DataError, match=told):
            look(folder)
    review.take_back(folder, found.id, "李雷")
    assert said(folder) == []


def test_the_same_refused_row_of_one_group_is_one_case(tmp_path, quarantine):
    bad = {"line": 9, "reason": "x", "row": '{"instruction": "你好", '}
    files.write_jsonl(quarantine / "faq.csv.rows.jsonl", [bad])
    files.write_jsonl(quarantine / "other.csv.rows.jsonl", [bad, bad | {"line": 4, "row": ""}])
    assert len(review.add_refused(tmp_path / "review", quarantine)) == 4
