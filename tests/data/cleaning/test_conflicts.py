import pytest

from llama_factory.data.conflict_rules import ConflictSettings
from llama_factory.data.review import folder as review
from tests.data.rows import prepared, write

QUESTION = "Is a parcel that was sent on a Sunday counted from the Monday after?"


def rows(*answers, question=QUESTION):
    return [{"instruction": question, "output": answer} for answer in answers]


def taught(tmp_path, given, **more):
    data = prepared(tmp_path, write(tmp_path / "faq.jsonl", given), **more)
    return [row.answer for row in data.train], data


def test_the_answer_of_most_rows_is_taught_and_copies_count(tmp_path):
    answers, data = taught(tmp_path, rows("Yes.", "No.", "Yes.", "yes"))
    assert answers == ["Yes."]
    assert data.report.dropped == {
        "twice in this round": 1,
        "another answer is right by rule majority": 1,
        "nearly the same is in this round": 1,
    }


def test_rows_that_no_rule_settles_wait_for_review(tmp_path):
    answers, data = taught(tmp_path, rows("Yes.", "No."))
    assert answers == []
    assert data.report.dropped == {"conflicting answers wait for review": 2}
    assert len(data.conflicts) == 1


@pytest.mark.parametrize(
    ("near", "is_conflict"),
    [
        (QUESTION.replace("Sunday", "sunday").replace("?", ""), True),
        (QUESTION.replace("counted", "countted"), True),
        (QUESTION.replace("Sunday", "Friday"), False),
    ],
)
def test_questions_nearly_the_same_count_and_others_do_not(tmp_path, near, is_conflict):
    answers, _ = taught(tmp_path, rows("Yes.") + rows("No.", question=near))
    assert (answers == []) is is_conflict


def test_other_rules_are_settings(tmp_path):
    settings = {"cleaning": [{"type": "conflicts", "rule": "newest"}]}
    answers, _ = taught(tmp_path, rows("Yes.", "No."), **settings)
    assert answers == ["No."]


def test_what_people_decided_holds_in_later_rounds(tmp_path):
    folder = tmp_path / "review"
    _, data = taught(tmp_path / "1", rows("Yes.", "No."))
    (case,) = review.add_cases(folder, data.conflicts, ConflictSettings())
    review.decide(folder, case.id, "ann", case.keep(2))
    answers, data = taught(tmp_path / "2", rows("Yes.", "No."), review=folder)
    (accepted,) = review.accepted_rows(folder)
    assert answers == [accepted.answer]
    assert data.report.dropped == {"another answer was chosen in review": 1}


def test_long_answers_may_differ(tmp_path):
    long = ["Yes. " * 60, "No. " * 80]
    answers, _ = taught(tmp_path, rows(*long), cleaning=["conflicts"])
    assert len(answers) == 2


def test_the_same_text_with_another_label_is_a_conflict_and_no_near_duplicate(tmp_path):
    text = "Is this spam or ham? Dear friend, you have won a cup and only need to send us a letter."
    given = rows("spam", "ham", question=text)
    answers, data = taught(tmp_path / "a", given, cleaning=["near_duplicates"])
    assert answers == ["spam", "ham"]
    _, data = taught(tmp_path / "b", given)
    assert data.report.dropped == {"conflicting answers wait for review": 2}


def test_an_answer_that_was_rejected_or_waits_is_not_taught_when_it_comes_alone(tmp_path):
    folder = tmp_path / "review"
    _, data = taught(tmp_path / "1", rows("Yes.", "No."))
    (case,) = review.add_cases(folder, data.conflicts, ConflictSettings())
    answers, _ = taught(tmp_path / "2", rows("No."), review=folder)
    assert answers == []
    review.decide(folder, case.id, "ann", case.keep(1))
    (accepted,) = review.accepted_rows(folder)
    other = {"Yes.": "No.", "No.": "Yes."}[accepted.answer]
    answers, data = taught(tmp_path / "3", rows(other), review=folder)
    assert answers == []
    assert data.report.dropped == {"another answer was chosen in review": 1}


def test_signs_that_change_a_question_keep_it_apart(tmp_path):
    given = rows("Bjarne", question="Who made the language C++?") + rows(
        "Anders", question="Who made the language C#?"
    )
    assert taught(tmp_path, given)[0] == ["Bjarne", "Anders"]
