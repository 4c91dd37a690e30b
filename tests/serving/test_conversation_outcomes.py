"""Conversations are judged once, at one age, whatever became of them."""

from hypothesis import given
from hypothesis import strategies as st

from llama_factory.serving.conversation_outcomes import (
    FEWEST_TO_COMPARE,
    AnswerOutcome,
    ConversationOutcomes,
)

PATIENCE = 60.0


def answer(conversation, seconds=1.0, *, arm="production", completion="", begins=True):
    return AnswerOutcome(conversation, completion or conversation, arm, seconds, begins)


def test_a_conversation_is_judged_when_its_time_is_over_and_once():
    outcomes = ConversationOutcomes(PATIENCE)
    outcomes.answered(answer("talk"), 0.0)
    outcomes.answered(answer("talk", completion="later", begins=False), 50.0)
    assert outcomes.due(PATIENCE - 1) == ()
    (judged,) = outcomes.due(PATIENCE)
    assert (judged.arm, judged.bad) == ("production", {"errors": False, "thumbs_down": False})
    outcomes.answered(answer("talk", None, begins=False), PATIENCE + 1)
    assert outcomes.due(1e9) == ()


def test_any_answer_that_fails_and_any_thumb_down_counts():
    outcomes = ConversationOutcomes(PATIENCE)
    outcomes.answered(answer("talk"), 0.0)
    outcomes.answered(answer("talk", None, completion="second", begins=False), 1.0)
    outcomes.rated("second", is_down=True)
    (judged,) = outcomes.due(PATIENCE)
    assert judged.bad == {"errors": True, "thumbs_down": True}


def test_a_thumb_that_is_turned_or_late_or_of_nobody_does_not_count():
    outcomes = ConversationOutcomes(PATIENCE)
    outcomes.answered(answer("talk"), 0.0)
    outcomes.rated("talk", is_down=True)
    outcomes.rated("talk", is_down=False)
    (judged,) = outcomes.due(PATIENCE)
    outcomes.rated("talk", is_down=True)
    outcomes.rated("unknown", is_down=True)
    assert judged.bad["thumbs_down"] is False


def test_good_and_bad_ones_are_judged_at_the_same_age():
    outcomes = ConversationOutcomes(PATIENCE)
    outcomes.answered(answer("good"), 0.0)
    outcomes.answered(answer("bad", None, arm="candidate"), 0.0)
    outcomes.rated("bad", is_down=True)
    assert outcomes.due(PATIENCE - 0.1) == ()
    assert len(outcomes.due(PATIENCE)) == 2


def test_slow_is_slower_than_productions_median_once_that_is_known():
    outcomes = ConversationOutcomes(0)
    for number in range(FEWEST_TO_COMPARE):
        outcomes.answered(answer(str(number), 1.0 + number % 2), 0.0)
    assert all("latency" not in each.bad for each in outcomes.due(0.0))
    outcomes.answered(answer("fast", 1.4, arm="candidate"), 1.0)
    outcomes.answered(answer("slow", 1.6, arm="candidate"), 1.0)
    outcomes.answered(answer("failed", None, arm="candidate"), 1.0)
    assert [each.bad.get("latency") for each in outcomes.due(1.0)] == [False, True, None]


def test_the_same_words_asked_again_later_are_another_conversation():
    outcomes = ConversationOutcomes(PATIENCE)
    outcomes.answered(answer("hello"), 0.0)
    outcomes.answered(answer("hello"), 1.0)
    assert len(outcomes.due(PATIENCE)) == 1
    outcomes.answered(answer("hello"), PATIENCE + 1)
    assert len(outcomes.due(3 * PATIENCE)) == 1


@given(
    answers=st.lists(
        st.tuples(st.integers(0, 8), st.booleans(), st.floats(0, 50), st.booleans()), max_size=60
    )
)
def test_every_conversation_that_began_is_judged_exactly_once(answers):
    outcomes, now, judged, begun = ConversationOutcomes(PATIENCE), 0.0, 0, set()
    for number, fails, wait, is_down in answers:
        now += wait
        judged += len(outcomes.due(now))
        name = f"talk {number}"
        arm = "candidate" if number % 2 else "production"
        first = name not in begun
        begun.add(name)
        outcomes.answered(answer(name, None if fails else 1.0, arm=arm, begins=first), now)
        outcomes.rated(name, is_down=is_down)
    judged += len(outcomes.due(now + PATIENCE))
    assert judged == len(begun)
    assert outcomes._completions == {}, "nothing is kept of what is judged"
