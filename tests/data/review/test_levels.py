import contextlib
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llama_factory.core.errors import DataError
from llama_factory.data.conflict_rules import ConflictSettings
from llama_factory.data.review import folder as review
from llama_factory.data.review.cases import Choice
from tests.data.disputes import (
    DROP,
    RETURNS,
    UNRESOLVED,
    case,
    one,
    said,
)

PEOPLE = ("ann", "ben", "cem", "dee")


@pytest.mark.slow
@given(
    st.booleans(),
    st.booleans(),
    st.lists(st.tuples(st.sampled_from(PEOPLE), st.integers(0, 5)), max_size=12),
)
@settings(max_examples=60, deadline=None)
def test_whatever_people_do_the_levels_hold(is_tied, always_second, steps):
    rows = RETURNS[1:] if is_tied else RETURNS
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        found = one(folder, rows, ConflictSettings(review="all", always_second=always_second))
        choices = [found.keep(1), found.keep(2), DROP, Choice(edited="maybe"), UNRESOLVED, None]
        for who, number in steps:
            with contextlib.suppress(DataError):
                if choices[number] is None:
                    review.take_back(folder, found.id, who)
                else:
                    review.decide(folder, found.id, who, choices[number])
            now = case(folder, found)
            assert_levels_hold(now)
            assert bool(said(folder)) is (now.state == "resolved" and now.result != DROP)


def assert_levels_hold(now):
    """The rules in words, on the decisions that count."""
    votes = [vote for vote in now.votes if not vote.choice.is_unresolved]
    assert len({vote.reviewer for vote in votes}) == len(votes), "each level is another person"
    choices = [vote.choice for vote in votes]
    if not votes:
        settled = False
    elif len(votes) == 1:
        agreed = choices[0] == now.proposal
        settled = agreed or (now.proposal is None and not now.always_second)
    else:
        settled = choices[0] == choices[1] or len(votes) == 3
    assert (now.result is not None) is settled
    assert now.result == (choices[-1] if settled else None)
