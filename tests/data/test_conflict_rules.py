import pytest
from pydantic import ValidationError

from llama_factory.core.types import TEXT, Example, Message, ToolCall
from llama_factory.data.conflict_rules import (
    Conflict,
    ConflictSettings,
    claim,
    conflict_among,
    decide,
    same_question,
)

ANY = ConflictSettings()


def row(question, answer, file="a.jsonl", line=1, **more):
    turns = (Message("user", question), Message("assistant", answer))
    return Example(turns, file.split(".")[0], file, line, **more)


def conflict(*rows, settings=ANY):
    found = conflict_among(rows, settings)
    assert found is not None
    return found


def answers(decision, rows):
    return {each.answer for each in rows if each.key in decision.kept}


def test_the_same_question_in_another_spelling_is_the_same():
    assert same_question(row("退款要几天？", "三天"), row(" 退款要几天", "五天"))
    assert same_question(row("Is it OPEN?", "yes"), row("is it open", "no"))
    assert not same_question(row("Is it open?", "yes"), row("Is it shut?", "no"))


def test_instructions_tools_pictures_and_turns_are_part_of_the_question():
    asked = row("Is it open?", "yes")
    turns = asked.messages
    polite = Example((Message("system", "Be brief."), *turns), "a", "a.jsonl", 1)
    rude = Example((Message("system", "Be rude."), *turns), "a", "a.jsonl", 1)
    assert not same_question(asked, polite)
    assert not same_question(polite, rude)
    assert not same_question(asked, row("Is it open?", "no", tools="[]"))
    assert not same_question(asked, row("Is it open?", "no", images=("a.png",)))
    assert not same_question(asked, row("Is it open?", "no", is_desirable=True))
    assert same_question(polite, polite)


def test_instructions_to_the_system_are_never_only_nearly_the_same():
    turns = row("Is it open?", "yes").messages
    one, other = (
        Example((Message("system", text), *turns), "a", "a.jsonl", 1)
        for text in ("You are the assistant of a library.", "You are an assistant of a library.")
    )
    assert not same_question(one, other)


def test_edits_are_counted_over_all_turns():
    def talk(first, last):
        turns = ("user", first), ("assistant", "Which?"), ("user", last), ("assistant", "No.")
        return Example(tuple(Message(*turn) for turn in turns), "a", "a.jsonl", 1)

    one = talk("I would like to see the big picture", "Please show the second one to me")
    assert same_question(one, talk("I would like to see big picture", one.messages[2].content))
    assert not same_question(one, talk("I would like to see big picture", "Show the second one"))


def test_plain_text_asks_nothing():
    one, other = (Example((Message(TEXT, text),), "a", "a.txt", 1) for text in ("Text", "text"))
    assert not same_question(one, other)


def same_answer(one, other):
    return conflict_among([one, other], ANY) is None


def test_answers_are_the_same_up_to_spelling_and_order_of_arguments():
    assert same_answer(row("q", "Yes."), row("q", "yes"))
    assert not same_answer(row("q", "是"), row("q", "否"))
    assert not same_answer(row("q", "-5"), row("q", "5"))

    def calling(arguments):
        turn = Message("assistant", "", tool_calls=(ToolCall("find", arguments),))
        return Example((Message("user", "q"), turn), "a", "a.jsonl", 1)

    assert same_answer(calling('{"a": 1, "b": 2}'), calling('{"b":2,"a":1}'))
    assert not same_answer(calling('{"a": 1}'), calling('{"a": 2}'))
    assert not same_answer(calling("{broken"), calling("{other"))


def test_rows_that_agree_are_no_conflict():
    assert conflict_among([row("q?", "Yes."), row("Q", "yes")], ANY) is None
    assert conflict_among([row("q?", "yes")], ANY) is None
    assert conflict_among([], ANY) is None


def test_long_answers_may_differ_unless_they_are_to_be_reviewed():
    long = [row("Write a story", "once " * 60), row("Write a story", "twice " * 60)]
    assert conflict_among(long, ANY) is None
    strict = ConflictSettings(long_answers="review")
    assert conflict(*long, settings=strict).rows == tuple(long)
    assert conflict_among(long, ConflictSettings(label_characters=1000))


def test_a_long_answer_beside_labels_stays_out_of_their_conflict():
    rows = [row("q", "yes"), row("q", "well " * 100), row("q", "no")]
    assert [each.answer for each in conflict(*rows).rows] == ["yes", "no"]


def test_tagged_rows_conflict_only_where_one_answer_is_liked_and_disliked():
    liked, disliked = row("q", "a", is_desirable=True), row("q", "a", is_desirable=False)
    other = row("q", "b", is_desirable=False)
    assert conflict_among([liked, other], ANY) is None
    assert conflict(liked, other, disliked).rows == (liked, disliked)


def test_preference_pairs_conflict_only_where_they_are_reversed():
    one = row("q", "a", rejected=Message("assistant", "b"))
    reverse = row("q", "b", rejected=Message("assistant", "a"))
    other = row("q", "c", rejected=Message("assistant", "b"))
    assert conflict_among([one, other], ANY) is None
    assert conflict(one, other, reverse).rows == (one, reverse)


def test_the_id_depends_on_what_is_in_dispute_alone():
    rows = [row("Is it open?", "yes"), row("is it open", "no", "b.jsonl", 9)]
    same = [row("Is it open", "No.", "z.csv", 4), row("Is it open?", "yes", "y.csv"), rows[0]]
    more = [*rows, row("Is it open?", "maybe")]
    assert conflict(*rows).id == conflict(*reversed(rows)).id == conflict(*same).id
    assert conflict(*rows).id != conflict(*more).id
    assert conflict(*rows).id == "2ce9b3ee99bac30ccc1cf12e6830d9ed", (
        "decisions on disk would be lost"
    )


def test_the_majority_must_be_more_than_half():
    three = [row("q", "yes"), row("q", "Yes.", line=2), row("q", "no", line=3)]
    found = decide(conflict(*three), ANY)
    assert found.why == "majority: 2 of 3 rows give this answer"
    assert answers(found, three) == {"yes", "Yes."}
    assert found.dropped == (three[2].key,)
    assert decide(conflict(*three[1:]), ANY) is None
    assert decide(conflict(*three, row("q", "never", line=4)), ANY) is None


def test_the_newest_is_the_last_line_of_the_last_file():
    rows = [
        row("q", "first", "z.jsonl", 90),
        row("q", "third", "a.jsonl", 3),
        row("q", "second", "a.jsonl", 2),
        row("q", "zeroth", "z.jsonl", 1),
    ]
    found = decide(conflict(*rows), ConflictSettings(rule="newest"))
    assert answers(found, rows) == {"third"}
    assert found.why == "newest: a.jsonl:3 came last"


def test_the_first_trusted_source_that_has_a_row_decides():
    rows = [row("q", "yes", "forum.jsonl"), row("q", "no", "handbook.jsonl"), row("q", "maybe")]
    settings = ConflictSettings(rule="trusted_source", trusted=("law", "handbook", "forum.jsonl"))
    found = decide(conflict(*rows), settings)
    assert (answers(found, rows), found.why) == ({"no"}, "trusted source: handbook")
    by_file = ConflictSettings(rule="trusted_source", trusted=("forum.jsonl",))
    assert answers(decide(conflict(*rows), by_file), rows) == {"yes"}


def test_a_trusted_source_that_contradicts_itself_or_has_no_row_decides_nothing():
    rows = [row("q", "yes", "law.jsonl"), row("q", "no", "law.jsonl", 2), row("q", "no")]
    assert (
        decide(conflict(*rows), ConflictSettings(rule="trusted_source", trusted=("law",))) is None
    )
    assert decide(conflict(*rows), ConflictSettings(rule="trusted_source", trusted=("x",))) is None


def test_trust_needs_somebody_to_trust():
    with pytest.raises(ValidationError, match=r"needs names in 'trusted'. Add the files or groups"):
        ConflictSettings(rule="trusted_source")


def test_without_a_rule_people_decide():
    rows = [row("q", "yes"), row("q", "yes", line=2), row("q", "no", line=3)]
    assert decide(conflict(*rows), ConflictSettings(rule="none")) is None


@pytest.mark.parametrize("rule", ["majority", "newest", "trusted_source"])
def test_no_rule_decides_where_questions_are_only_nearly_the_same(rule):
    near = "How do I return the opened bottle of {}shampoo?"
    rows = [row(near.format("the "), "yes"), row(near.format("the "), "yes", line=2)]
    rows.append(row(near.format(""), "no", line=3))
    assert same_question(rows[0], rows[2])
    found = conflict(*rows)
    assert not found.is_exact
    assert decide(found, ConflictSettings(rule=rule, trusted=("a",))) is None


def test_claims_tell_rows_apart_by_question_and_answer():
    rows = [row("q", "yes"), row("Q?", "Yes!"), row("q", "no"), row("other", "yes")]
    assert len(set(map(claim, rows))) == 3
    assert Conflict(tuple(rows), False).claims == frozenset(map(claim, rows))
