"""Who gets the candidate: a fraction of callers, always the same; no conversation changes hands."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llama_factory.serving.outcome import Caller
from llama_factory.serving.routing import (
    ConversationPlace,
    ConversationPlaces,
    choose,
    is_chosen,
    unit_of,
)
from llama_factory.versions.releases import Standing

STANDING = Standing("v0001", "v0002", 3)


def test_a_fraction_of_users_gets_the_candidate():
    users = [unit_of(Caller(user=str(number)), "caller") for number in range(5000)]
    for fraction in (0.02, 0.1, 0.5):
        chosen = sum(is_chosen(user, STANDING, fraction) for user in users) / len(users)
        assert chosen == pytest.approx(fraction, abs=0.02)


def test_a_higher_fraction_keeps_those_that_were_chosen():
    users = [f"user {number}" for number in range(500)]
    few, many = ({u for u in users if is_chosen(u, STANDING, f)} for f in (0.1, 0.3))
    assert few < many


def test_the_next_candidate_is_tried_on_others():
    users = [f"user {number}" for number in range(2000)]
    again = Standing("v0001", "v0002", 7)
    one, other = ({u for u in users if is_chosen(u, s, 0.5)} for s in (STANDING, again))
    assert len(one & other) / len(one) == pytest.approx(0.5, abs=0.06)


def test_users_come_before_keys_and_keys_before_conversations():
    same = {unit_of(Caller("key", "ann", str(n)), "caller") for n in range(9)}
    assert len(same) == 1
    assert len({unit_of(Caller("key", "", str(n)), "caller") for n in range(9)}) == 1
    assert len({unit_of(Caller("", "", str(n)), "caller") for n in range(9)}) == 9
    assert len({unit_of(Caller("key", "ann", str(n)), "conversation") for n in range(9)}) == 9
    assert unit_of(Caller("one", "ann"), "caller") != unit_of(Caller("other", "ann"), "caller")


@given(
    turns=st.lists(st.tuples(st.integers(0, 9), st.booleans()), max_size=60),
    fraction=st.floats(0.01, 0.99),
)
def test_a_conversation_never_changes_its_version_while_both_are_there(turns, fraction):
    conversations, before = ConversationPlaces(), {}
    for number, begins in turns:
        caller = Caller(user=f"user {number % 4}", conversation=str(number), begins=begins)
        version = choose(conversations, caller, (STANDING, fraction), "caller")
        assert version in ("v0001", "v0002")
        assert before.setdefault(number, version) == version


def test_a_conversation_that_began_before_the_canary_stays_with_production():
    conversations = ConversationPlaces()
    for number in range(200):
        conversations.put(str(number), ConversationPlace("v0001"))
    callers = [Caller(user=str(n), conversation=str(n), begins=False) for n in range(200)]
    assert {choose(conversations, c, (STANDING, 0.5), "caller") for c in callers} == {"v0001"}
    assert conversations.get("7") == ConversationPlace("v0001", None), "it is not counted"


def test_a_conversation_with_a_version_that_is_gone_moves():
    conversations = ConversationPlaces()
    conversations.put("talk", ConversationPlace("v0009"))
    caller = Caller(user="ann", conversation="talk", begins=False)
    assert choose(conversations, caller, (STANDING, 0.5), "caller") in ("v0001", "v0002")


def test_a_conversation_of_another_server_is_answered_as_there_and_not_counted():
    begins = Caller(user="ann", conversation="talk")
    goes_on = Caller(user="ann", conversation="talk", begins=False)
    here, other = ConversationPlaces(), ConversationPlaces()
    version = choose(here, begins, (STANDING, 0.5), "caller")
    assert choose(other, goes_on, (STANDING, 0.5), "caller") == version
    assert here.get("talk").trial == STANDING
    assert other.get("talk").trial is None


def test_the_conversation_that_is_silent_longest_is_forgotten():
    conversations = ConversationPlaces(max_kept=2)
    for name in ("one", "two", "one", "three"):
        conversations.put(name, ConversationPlace("v0001"))
    assert len(conversations) == 2
    assert conversations.get("two") is None
