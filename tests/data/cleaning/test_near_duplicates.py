import pytest

from llama_factory.data.cleaning.near_duplicates import NearDuplicates
from llama_factory.data.seen import open_seen
from tests.data.rows import LONG_ANSWER, LONG_QUESTION, after, chat, prepared, selection_of, write

CHINESE = (
    "包裹到了但是外包装破了，客户应该怎么办才能拿到退款或者换货？",
    "请先拍照留证，然后拒收包裹，并在当天写信给我们的客服人员。",
)
OTHER = chat("Which of your garden chairs can stay outside in winter?", "Those made of teak can.")


def dropped(folder, rows, **settings):
    left = after(NearDuplicates(**settings), selection_of(folder, rows))
    return [number for number in range(len(rows)) if not left.is_in[number]]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ((LONG_QUESTION, LONG_ANSWER), (LONG_QUESTION.upper(), LONG_ANSWER)),
        ((LONG_QUESTION, LONG_ANSWER), (LONG_QUESTION, LONG_ANSWER.replace("pictures", "photos"))),
        (CHINESE, (CHINESE[0].replace("，", ""), CHINESE[1])),
        (CHINESE, (CHINESE[0], CHINESE[1].replace("客服人员", "客服"))),
    ],
)
def test_the_first_of_two_rows_nearly_the_same_is_kept(tmp_path, before, after):
    assert dropped(tmp_path, [chat(*before), OTHER, chat(*after)]) == [2]


def test_rows_with_other_numbers_or_other_words_are_kept(tmp_path):
    rows = [chat(LONG_QUESTION, f"{LONG_ANSWER} Call {number}.") for number in (1, 2)]
    assert dropped(tmp_path, [*rows, OTHER]) == []


def test_short_rows_are_left_to_the_exact_comparison(tmp_path):
    rows = [chat("Great film, really!", "positive"), chat("Great film, really", "positive")]
    assert dropped(tmp_path / "a", rows) == []
    assert dropped(tmp_path / "b", rows, min_characters=10) == [1]


def test_a_higher_similarity_keeps_more(tmp_path):
    rows = [
        chat(LONG_QUESTION, LONG_ANSWER),
        chat(LONG_QUESTION, LONG_ANSWER.replace("day", "evening")),
    ]
    assert dropped(tmp_path / "a", rows) == [1]
    assert dropped(tmp_path / "b", rows, similarity=1.0) == []


def test_what_an_earlier_version_was_taught_counts(tmp_path):
    row = {"instruction": LONG_QUESTION, "output": LONG_ANSWER}
    before = prepared(tmp_path / "1", write(tmp_path / "old.jsonl", [row]))
    seen = open_seen({"v0003": before.folder}, tmp_path / "cache")
    again = write(
        tmp_path / "new.jsonl", [row | {"output": LONG_ANSWER.replace("same", "very same")}]
    )
    data = prepared(tmp_path / "2", again, seen=seen)
    assert data.report.dropped == {"nearly the same was taught in v0003": 1}
    assert "torn wrapping" in data.report.samples[0].before
