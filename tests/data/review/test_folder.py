import pytest

from llama_factory.core.errors import DataError
from llama_factory.core.types import Example, Message, ToolCall
from llama_factory.data.conflict_rules import ConflictSettings
from llama_factory.data.review import folder as review
from llama_factory.data.review.cases import Choice
from tests.data.disputes import (
    DROP,
    RETURNS,
    WARRANTY,
    add,
    case,
    conflict,
    one,
    row,
    said,
)

# who must look


def test_without_a_proposal_the_first_reviewer_decides_alone(tmp_path):
    found = one(tmp_path)
    assert (found.proposal, found.level, found.state) == (None, "first", "open")
    now = review.decide(tmp_path, found.id, "alice", found.keep(2), "per the manual")
    assert (now.level, now.state) == (None, "resolved")
    assert case(tmp_path, found) == now
    assert said(tmp_path) == ["12个月"]
    assert review.open_cases(tmp_path) == []


def test_with_always_second_two_must_agree(tmp_path):
    found = one(tmp_path, settings=ConflictSettings(always_second=True))
    now = review.decide(tmp_path, found.id, "alice", found.keep(2))
    assert (now.level, now.state, said(tmp_path)) == ("second", "open", [])
    now = review.decide(tmp_path, found.id, "bob", found.keep(2))
    assert (now.state, said(tmp_path)) == ("resolved", ["12个月"])


def test_a_first_reviewer_who_agrees_with_the_rule_is_enough(tmp_path):
    found = one(tmp_path, RETURNS, ConflictSettings(review="all", always_second=True))
    assert found.proposal == found.keep(1)
    assert found.why == "majority: 2 of 3 rows give this answer"
    now = review.decide(tmp_path, found.id, "alice", found.keep(1))
    assert (now.state, said(tmp_path)) == ("resolved", ["yes"])


def test_a_first_reviewer_who_disagrees_with_the_rule_calls_a_second(tmp_path):
    found = one(tmp_path, RETURNS)
    now = review.decide(tmp_path, found.id, "alice", found.keep(2))
    assert (now.level, now.state, said(tmp_path)) == ("second", "open", [])
    now = review.decide(tmp_path, found.id, "bob", found.keep(2))
    assert (now.state, said(tmp_path)) == ("resolved", ["no"])


def test_two_who_disagree_call_a_referee(tmp_path):
    found = one(tmp_path, RETURNS)
    review.decide(tmp_path, found.id, "alice", found.keep(2))
    now = review.decide(tmp_path, found.id, "bob", found.keep(1))
    assert (now.level, now.state, said(tmp_path)) == ("referee", "open", [])
    now = review.decide(tmp_path, found.id, "carol", DROP)
    assert (now.state, now.result, said(tmp_path)) == ("resolved", DROP, [])
    assert [vote.level for vote in now.log] == ["first", "second", "referee"]


def test_a_case_left_unresolved_stays_out_until_a_referee_decides(tmp_path):
    found = one(tmp_path, RETURNS)
    review.decide(tmp_path, found.id, "alice", found.keep(2))
    review.decide(tmp_path, found.id, "bob", found.keep(1))
    now = review.decide(tmp_path, found.id, "alice", Choice(is_unresolved=True))
    assert (now.state, said(tmp_path), review.open_cases(tmp_path)) == ("unresolved", [], [])
    now = review.decide(tmp_path, found.id, "carol", found.keep(1, 2))
    assert (now.state, said(tmp_path)) == ("resolved", ["yes", "no"])


def test_only_a_disagreement_can_be_left_unresolved(tmp_path):
    found = one(tmp_path)
    with pytest.raises(DataError, match="only when two reviewers disagree can it be left unres"):
        review.decide(tmp_path, found.id, "alice", Choice(is_unresolved=True))


def test_what_the_rule_settles_is_logged_and_not_asked(tmp_path):
    found = one(tmp_path, RETURNS, ConflictSettings())
    assert (found.state, said(tmp_path), review.open_cases(tmp_path)) == ("resolved", ["yes"], [])
    vote = found.log[0]
    assert (vote.level, vote.reviewer) == ("rule", "rule majority")
    assert vote.note == "majority: 2 of 3 rows give this answer"
    again = review.take_back(tmp_path, found.id, "alice", "the manual says no")
    assert (again.state, again.level) == ("open", "first")
    now = review.decide(tmp_path, found.id, "alice", found.keep(2))
    assert now.level == "second"


def test_a_decision_taken_back_is_as_if_it_had_not_been_made_and_stays_in_the_log(tmp_path):
    found = one(tmp_path, RETURNS)
    review.decide(tmp_path, found.id, "alice", found.keep(2))
    review.decide(tmp_path, found.id, "bob", found.keep(2))
    now = review.take_back(tmp_path, found.id, "bob")
    assert (now.state, now.level) == ("open", "second")
    now = review.decide(tmp_path, found.id, "bob", found.keep(1))
    assert (now.level, len(now.log)) == ("referee", 4)
    assert case(tmp_path, found) == now


def test_each_reviewer_sees_what_he_may_decide(tmp_path):
    found = one(tmp_path, RETURNS)
    add(tmp_path, WARRANTY)
    review.decide(tmp_path, found.id, "Alice", found.keep(2))
    assert len(review.open_cases(tmp_path)) == 2
    assert found.id not in [each.id for each in review.open_cases(tmp_path, " alice ")]
    assert found.id in [each.id for each in review.open_cases(tmp_path, "bob")]


# choices


def test_an_edited_answer_replaces_that_of_every_question(tmp_path):
    near = "How do I return the opened bottle of {}shampoo?"
    rows = [row(near.format("the "), "yes"), row(near.format(""), "no", "b.jsonl", 3)]
    found = one(tmp_path, [*rows, row(near.format("the "), "maybe", "c.jsonl")])
    review.decide(tmp_path, found.id, "alice", Choice(edited="Only within 30 days."))
    made = list(review.accepted_rows(tmp_path))
    assert [each.prompt for each in made] == [each.prompt for each in rows]
    assert {each.answer for each in made} == {"Only within 30 days."}
    assert [(each.file, each.line) for each in made] == [("a.jsonl", 1), ("b.jsonl", 3)]


def test_an_edited_answer_becomes_an_option_for_the_second_reviewer(tmp_path):
    found = one(tmp_path, RETURNS)
    now = review.decide(tmp_path, found.id, "alice", Choice(edited="Within 30 days."))
    assert [(option.text, option.by) for option in now.options[2:]] == [
        ("Within 30 days.", "alice")
    ]
    now = review.decide(tmp_path, found.id, "bob", now.keep(3))
    assert (now.state, said(tmp_path)) == ("resolved", ["Within 30 days."])


def test_numbers_of_written_answers_stay_when_one_is_written_again(tmp_path):
    found = one(tmp_path, RETURNS)
    for who, text in (("alice", "x one"), ("bob", "y two"), ("carol", "x one")):
        now = review.decide(tmp_path, found.id, who, Choice(edited=text))
    assert [option.text for option in now.options] == ["yes", "no", "x one", "y two"]
    assert said(tmp_path) == ["x one"]


def test_edits_that_differ_in_punctuation_alone_agree_and_the_later_one_counts(tmp_path):
    found = one(tmp_path, settings=ConflictSettings(always_second=True))
    review.decide(tmp_path, found.id, "alice", Choice(edited="18 个月"))
    review.decide(tmp_path, found.id, "bob", Choice(edited="18个月。"))
    assert said(tmp_path) == ["18个月。"]


def test_everything_else_of_an_edited_row_stays(tmp_path):
    rows = [row("q", "a", weight=0.5, tools="[]"), row("q", "b", weight=0.5, tools="[]")]
    found = one(tmp_path, rows)
    review.decide(tmp_path, found.id, "alice", Choice(edited="c"))
    made = next(review.accepted_rows(tmp_path))
    assert (made.weight, made.tools, made.group) == (0.5, "[]", "a")


def test_tool_calls_cannot_be_written_by_hand(tmp_path):
    def calling(name):
        turn = Message("assistant", "", tool_calls=(ToolCall(name, "{}"),))
        return Example((Message("user", "q"), turn), "a", "a.jsonl", 1)

    found = one(tmp_path, [calling("find"), calling("search")])
    assert [option.text for option in found.options] == ["find({})", "search({})"]
    with pytest.raises(DataError, match="answers call tools, which text cannot stand for"):
        review.decide(tmp_path, found.id, "alice", Choice(edited="text"))


@pytest.mark.parametrize(
    ("numbers", "told"),
    [((3,), "has no answer 3. Choose from 1 to 2, several as 1,3"), ((1, 0), "has no answer 0.")],
)
def test_numbers_out_of_range_are_refused(tmp_path, numbers, told):
    with pytest.raises(DataError, match=told):
        one(tmp_path).keep(*numbers)


def test_two_written_answers_cannot_both_be_kept(tmp_path):
    found = one(tmp_path, RETURNS)
    review.decide(tmp_path, found.id, "alice", Choice(edited="one"))
    now = review.decide(tmp_path, found.id, "bob", Choice(edited="two"))
    with pytest.raises(DataError, match="only one answer written by a reviewer can be kept, 2 are"):
        now.keep(3, 4)
    assert now.keep(1, 4) == Choice((found.options[0].id,), "two")


def test_options_of_another_case_are_refused(tmp_path):
    found, other = add(tmp_path, WARRANTY, RETURNS)
    with pytest.raises(DataError, match=r"has no option '.{32}'.* It has 2 answers"):
        review.decide(tmp_path, found.id, "alice", other.keep(1))


def test_an_empty_edit_is_refused(tmp_path):
    with pytest.raises(DataError, match="must not be empty. Write it, or drop all."):
        review.decide(tmp_path, one(tmp_path).id, "alice", Choice(edited="  "))
    assert not (tmp_path / review.DECISIONS).exists()


# who and which


def test_the_same_reviewer_is_not_first_and_second(tmp_path):
    found = one(tmp_path, RETURNS)
    review.decide(tmp_path, found.id, "Alice", found.keep(2))
    told = r"alice has already decided case .{8} \(first reviewer, .*\). The second must be some"
    with pytest.raises(DataError, match=told):
        review.decide(tmp_path, found.id, " alice", found.keep(2))
    with pytest.raises(DataError, match="alice has already decided"):
        review.decide(tmp_path, found.id, "\uff21lice".lower(), found.keep(2))
    review.decide(tmp_path, found.id, "bob", found.keep(1))
    with pytest.raises(DataError, match="bob has already .*second reviewer.* The referee must"):
        review.decide(tmp_path, found.id, "bob", found.keep(2))


def test_a_settled_case_is_not_decided_again(tmp_path):
    found = one(tmp_path)
    review.decide(tmp_path, found.id, "alice", found.keep(1))
    with pytest.raises(DataError, match="is settled: alice decided on .* it can be taken back"):
        review.decide(tmp_path, found.id, "bob", found.keep(2))


@pytest.mark.parametrize("name", ["", "  \n"])
def test_a_reviewer_has_a_name(tmp_path, name):
    found = one(tmp_path)
    with pytest.raises(DataError, match="the reviewer's name is empty. Give one with --reviewer"):
        review.decide(tmp_path, found.id, name, found.keep(1))


def test_an_unknown_case_is_told_with_the_nearest(tmp_path):
    found = one(tmp_path)
    wrong = found.id[:5] + "x" + found.id[6:]
    with pytest.raises(DataError, match=f"no case '{wrong}' among 1. Did you mean '{found.id}'?"):
        review.decide(tmp_path, wrong, "alice", found.keep(1))
    with pytest.raises(DataError, match=f"Did you mean '{found.id[:8]}'?"):
        review.decide(tmp_path, wrong[:8], "alice", found.keep(1))
    with pytest.raises(DataError, match="there is no case '' among 1"):
        review.decide(tmp_path, "", "alice", found.keep(1))


def test_the_beginning_of_an_id_is_enough_where_it_is_the_only_one(tmp_path):
    found = one(tmp_path)
    assert review.decide(tmp_path, found.id[:6], "alice", DROP).id == found.id
    add(tmp_path, *([row(f"question {n}", "a"), row(f"question {n}", "b")] for n in range(40)))
    ids = [each[0] for each in review.read_book(tmp_path).cases]
    twice = next(each for each in ids if ids.count(each) > 1)
    with pytest.raises(DataError, match=f"'{twice}' begins the ids of .* cases. Give more of it."):
        review.decide(tmp_path, twice, "alice", DROP)


def test_nothing_can_be_taken_back_where_nothing_was_decided(tmp_path):
    with pytest.raises(DataError, match="nobody has decided it, nothing to take back"):
        review.take_back(tmp_path, one(tmp_path).id, "alice")


# later rounds


def test_a_conflict_decided_once_stays_decided(tmp_path):
    found = one(tmp_path)
    review.decide(tmp_path, found.id, "alice", found.keep(2))
    renamed = [row("保修多久?", "12个月", "z.csv", 90), row("保修多久", "24个月", "y.csv", 3)]
    before = (tmp_path / review.CASES).read_bytes()
    assert add(tmp_path, renamed) == []
    assert (tmp_path / review.CASES).read_bytes() == before
    assert review.read_book(tmp_path).ruling(conflict(renamed)) == {renamed[0].key}


def test_a_ruling_tells_which_rows_may_be_taught(tmp_path):
    found = one(tmp_path, RETURNS)
    assert review.read_book(tmp_path).ruling(conflict(RETURNS)) is None
    assert review.read_book(tmp_path).ruling(conflict(WARRANTY)) is None
    review.decide(tmp_path, found.id, "alice", found.keep(1))
    yes = {each.key for each in RETURNS[:2]}
    assert review.read_book(tmp_path).ruling(conflict(RETURNS)) == yes


def test_a_part_of_a_case_is_not_asked_again(tmp_path):
    rows = [row("q", "a"), row("q", "b"), row("q", "c")]
    found = one(tmp_path, rows)
    assert add(tmp_path, rows[:2]) == []
    review.decide(tmp_path, found.id, "alice", found.keep(1, 3))
    kept = list(review.accepted_rows(tmp_path))
    assert add(tmp_path, kept) == [], "several answers were kept on purpose"


def test_an_edit_does_not_start_the_dispute_again(tmp_path):
    found = one(tmp_path)
    review.decide(tmp_path, found.id, "alice", Choice(edited="18个月"))
    edited = next(review.accepted_rows(tmp_path))
    assert add(tmp_path, [*WARRANTY, edited]) == []
    ruling = review.read_book(tmp_path).ruling(conflict([*WARRANTY, edited]))
    assert ruling == {edited.key}


def test_a_case_that_grows_is_asked_anew_and_keeps_what_was_decided(tmp_path):
    found = one(tmp_path)
    review.decide(tmp_path, found.id, "alice", Choice(edited="18个月"))
    more = one(tmp_path, [*WARRANTY, row("保修多久", "6个月", "c.jsonl")])
    assert more.replaces == (found.id,)
    assert case(tmp_path, found).log[0].reviewer == "alice"
    assert said(tmp_path) == ["18个月"], "what was accepted stays until the new case is decided"
    review.decide(tmp_path, more.id, "bob", more.keep(3))
    assert said(tmp_path) == ["6个月"]
    assert review.summary(tmp_path).num_rows == 1


def test_an_open_case_that_grows_is_asked_once(tmp_path):
    found = one(tmp_path)
    more = one(tmp_path, [*WARRANTY, row("保修多久", "6个月", "c.jsonl")])
    assert [each.id for each in review.open_cases(tmp_path)] == [more.id]
    told = f"has become a part of case {more.id[:8]}, which has more answers. Decide that one."
    with pytest.raises(DataError, match=told):
        review.decide(tmp_path, found.id, "alice", DROP)


def test_the_same_conflict_twice_in_one_call_is_one_case(tmp_path):
    assert len(add(tmp_path, WARRANTY, WARRANTY[::-1], RETURNS)) == 2


def test_a_row_that_lost_a_dispute_has_lost_it_when_it_comes_alone_too(tmp_path):
    found = one(tmp_path)
    alone = [row("保修多久?", "24 个月", "z.csv", 90), row("保修多久?", "12个月。", "z.csv", 91)]
    other = row("保修多久?", "6个月")

    def verdicts():
        return [review.read_book(tmp_path).verdict(each) for each in (*alone, other)]

    assert review.read_book(tmp_path).disputed == (WARRANTY[0],)
    assert verdicts() == ["waiting", "waiting", None]
    review.decide(tmp_path, found.id, "alice", found.keep(2))
    assert verdicts() == ["rejected", "accepted", None]
    review.take_back(tmp_path, found.id, "alice")
    review.decide(tmp_path, found.id, "alice", Choice(edited="6个月"))
    assert verdicts() == ["rejected", "rejected", "accepted"]


def test_the_case_decided_last_counts_where_two_cases_disagree(tmp_path):
    found = one(tmp_path)
    review.decide(tmp_path, found.id, "alice", found.keep(1))
    more = one(tmp_path, [WARRANTY[1], row("保修多久", "6个月", "c.jsonl")])
    assert more.replaces == ()
    assert review.read_book(tmp_path).verdict(WARRANTY[1]) == "rejected", "asked anew, not open"
    review.decide(tmp_path, more.id, "bob", more.keep(1))
    assert review.read_book(tmp_path).verdict(WARRANTY[1]) == "accepted"
    assert review.read_book(tmp_path).verdict(WARRANTY[0]) == "accepted"


def test_what_only_a_rule_settled_is_no_verdict(tmp_path):
    found = one(tmp_path, RETURNS, ConflictSettings())
    assert found.state == "resolved"
    assert review.read_book(tmp_path).verdict(RETURNS[2]) is None
    assert review.read_book(tmp_path / "none").verdict(RETURNS[2]) is None
