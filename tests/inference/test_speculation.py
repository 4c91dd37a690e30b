"""Guesses of the next tokens from what was written before."""

from llama_factory.inference.speculation import Lookup


def test_what_followed_the_last_three_tokens_is_proposed():
    assert Lookup([1, 2, 3, 4, 5, 6, 1, 2, 3]).propose(3) == [4, 5, 6]


def test_two_tokens_are_looked_up_where_three_are_new():
    assert Lookup([1, 2, 3, 4, 9, 2, 3]).propose(2) == [4, 9]


def test_the_last_place_counts():
    assert Lookup([1, 2, 3, 1, 2, 4, 1, 2]).propose(1) == [4]


def test_nothing_is_proposed_for_new_tokens_and_short_texts():
    assert Lookup([1, 2, 3, 4]).propose(4) == []
    assert Lookup([]).propose(4) == []
    assert Lookup([1]).propose(4) == []
    assert Lookup([1, 2, 1, 2]).propose(0) == []


def test_tokens_of_the_answer_are_looked_up_too():
    lookup = Lookup([1, 2])
    for token in (3, 7, 8, 1, 2, 3):
        lookup.push(token)
    assert lookup.propose(2) == [7, 8]


def test_guesses_that_fail_stop_and_are_tried_again_rarely():
    lookup = Lookup([1, 2, 3, 4, 5, 6, 7, 8, 1, 2, 3])
    num_proposed = 0
    for _ in range(300):
        guess = lookup.propose(4)
        num_proposed += len(guess)
        lookup.record(len(guess), 0)
        for token in (1, 2, 3):
            lookup.push(token)
    assert num_proposed < 300 * 4 / 10
    for _ in range(40):
        for token in (1, 2, 3):
            lookup.push(token)
        guess = lookup.propose(4)
        lookup.record(len(guess), len(guess))
    assert len(lookup.propose(4)) == 3
