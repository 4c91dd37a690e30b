from llama_factory.data.prepare import load
from llama_factory.data.seen import open_seen
from tests.data.rows import prepared, write

QUESTION = "How many days do I have to send a parcel back?"


def rows(*answers, question=QUESTION):
    return [{"instruction": question, "output": answer} for answer in answers]


def second_round(tmp_path, first, second, **settings):
    before = prepared(tmp_path / "1", write(tmp_path / "old.jsonl", first))
    seen = open_seen({"v0001": before.folder}, tmp_path / "cache")
    after = prepared(tmp_path / "2", write(tmp_path / "new.jsonl", second), seen=seen, **settings)
    return before, after


def test_a_new_answer_to_an_old_question_corrects_it_and_is_taught(tmp_path):
    others = rows("In the box.", question="Where is the invoice?")
    before, after = second_round(tmp_path, rows("14 days.") + others, rows("30 days."))
    assert [row.answer for row in after.train] == ["30 days."]
    assert after.report.corrected == (before.train[0].key,)
    assert load(after.folder).report.corrected == after.report.corrected


def test_other_questions_and_long_answers_correct_nothing(tmp_path):
    long = [f"{word} " * 60 for word in ("yes", "no")]
    first = rows("14 days.") + rows(long[0], question="Tell me about parcels, please.")
    second = rows("Never.", question=QUESTION.replace("parcel", "letter")) + rows(
        long[1], question="Tell me about parcels, please."
    )
    _, after = second_round(tmp_path, first, second)
    assert after.report.corrected == ()
    assert len(after.train) == 2


def test_without_the_step_nothing_is_looked_for(tmp_path):
    _, after = second_round(tmp_path, rows("14 days."), rows("30 days."), cleaning=["unicode"])
    assert after.report.corrected == ()


def asked_twice(tmp_path, first, second, **settings):
    """A round whose test file asks the question, and what the next one makes of another answer."""
    before = prepared(tmp_path / "1", write(tmp_path / "faq.test.jsonl", first))
    seen = open_seen({"v0001": before.folder}, tmp_path / "cache")
    after = prepared(tmp_path / "2", write(tmp_path / "new.jsonl", second), seen=seen, **settings)
    return before, after


def test_a_new_answer_to_a_held_out_question_is_taught_and_the_question_not_asked_any_more(
    tmp_path,
):
    news = rows("30 days.", "14 days.")
    before, after = asked_twice(tmp_path, rows("14 days."), news[:1])
    assert [row.answer for row in after.train] == ["30 days."]
    assert after.report.retired == (before.held_out[0].key,)
    assert load(after.folder).report.retired == after.report.retired
    _, same = asked_twice(tmp_path / "same", rows("14 days."), news[1:])
    assert (len(same.train), same.report.retired) == (0, ())
    assert same.report.dropped == {"held out for testing in v0001": 1}


def test_a_correction_that_a_person_must_look_at_retires_nothing(tmp_path):
    _, after = asked_twice(tmp_path, rows("14 days."), rows("30 days.", "60 days."))
    assert (len(after.train), after.report.retired) == (0, ())


def test_without_conflicts_a_held_out_question_stays_held_out(tmp_path):
    _, after = asked_twice(tmp_path, rows("14 days."), rows("30 days."), cleaning=["unicode"])
    assert (len(after.train), after.report.retired) == (0, ())


def test_what_was_retired_may_be_taught_again(tmp_path):
    before, after = asked_twice(tmp_path, rows("14 days."), rows("30 days."))
    folders = {"v0001": before.folder, "v0002": after.folder}
    gone = {"v0001": frozenset(after.report.retired)}
    seen = open_seen(folders, tmp_path / "cache", gone)
    back = prepared(tmp_path / "3", write(tmp_path / "back.jsonl", rows("14 days.")), seen=seen)
    assert [row.answer for row in back.train] == ["14 days."]
    assert (back.report.corrected, back.report.retired) == ((after.train[0].key,), ())


def test_a_correction_is_taught_even_where_its_question_would_be_held_out_again(tmp_path):
    first, second = (
        [{"instruction": f"Where is shop {i}?", "output": f"{street} {i}"} for i in range(12)]
        for street in ("High Street", "Low Street")
    )
    before = prepared(tmp_path / "1", write(tmp_path / "old.jsonl", first), held_out_fraction=0.5)
    assert 0 < len(before.held_out) < 12
    seen = open_seen({"v0001": before.folder}, tmp_path / "cache")
    path = write(tmp_path / "new.jsonl", second)
    after = prepared(tmp_path / "2", path, seen=seen, held_out_fraction=0.5)
    taught = {row.prompt_key for row in after.train}
    assert {row.prompt_key for row in before.held_out} <= taught
    assert after.report.retired == tuple(sorted(row.key for row in before.held_out))
