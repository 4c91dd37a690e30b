"""What is asked often and answered from documents becomes cases of the review."""

import pytest

from llama_factory.core.types import Example, Message
from llama_factory.data.review import folder as review
from llama_factory.data.review.case_book import read_book
from llama_factory.data.review.cases import Choice
from llama_factory.jobs.knowledge import propose_rows
from llama_factory.knowledge.proposals import GroundedAnswer, propose
from tests.knowledge.books import filled

SAYS = {"a": "The warranty is 31 months.", "b": "Delivery takes five days."}


def answered(question, answer, digest="a", *, is_cited=True, file="lamp.md"):
    row = Example((Message("user", question), Message("assistant", answer)), "", "", 0)
    return GroundedAnswer(row, ({"file": file, "digest": digest, "is_cited": is_cited},))


def test_the_frequent_answer_is_offered_without_its_citations():
    asked = [answered("How long is the warranty?", "It is 31 months [1].")] * 2
    asked += [answered("how long is the warranty", "31 months [1].")] * 3
    (found,) = propose(asked, SAYS.get, 3)
    assert found.question == "how long is the warranty"
    assert found.answer == "31 months."
    assert found.num_asked == 5
    assert found.files == ("lamp.md",)
    assert propose(asked, SAYS.get, 6) == []


@pytest.mark.parametrize(
    "one",
    [
        answered("How long?", "31 months [1].", "gone"),
        answered("How long?", "It is 99 years, trust me.", is_cited=False),
        answered("How long?", "[1]"),
    ],
)
def test_what_documents_no_longer_support_is_not_offered(one):
    assert propose([one] * 5, SAYS.get, 3) == []


def test_an_answer_in_a_passages_own_words_needs_no_citation():
    one = answered("How long?", "The warranty is 31 months.", is_cited=False)
    assert len(propose([one] * 3, SAYS.get, 3)) == 1


def test_longer_conversations_are_left_out():
    one = answered("How long?", "31 months [1].")
    turns = (Message("user", "Hello"), Message("assistant", "Hi"), *one.row.messages)
    longer = GroundedAnswer(Example(turns, "", "", 0), one.citations)
    assert propose([longer] * 5, SAYS.get, 3) == []


def test_accepted_proposals_become_rows_of_rounds(tmp_path):
    books = filled(tmp_path)
    passage = books.search("warranty")[0]
    asked = [answered("How long is the warranty?", "31 months [1].", passage.digest)] * 3
    found, new = propose_rows(books.library, tmp_path / "review", asked, 3)
    assert len(found) == len(new) == 1
    assert propose_rows(books.library, tmp_path / "review", asked, 3)[1] == []
    case = new[0]
    assert case.why == "asked 3 times, answered from lamp.md"
    assert list(review.accepted_rows(tmp_path / "review")) == []
    keep = read_book(tmp_path / "review").case(case.id).keep(1)
    review.decide(tmp_path / "review", case.id, "ann", keep)
    (row,) = review.accepted_rows(tmp_path / "review")
    assert [turn.content for turn in row.messages] == ["How long is the warranty?", "31 months."]
    review.take_back(tmp_path / "review", case.id, "ann")
    review.decide(tmp_path / "review", case.id, "ann", Choice(edited="31 months, from delivery."))
    assert [row.answer for row in review.accepted_rows(tmp_path / "review")] == [
        "31 months, from delivery."
    ]


def test_a_changed_document_takes_its_proposals_away(tmp_path):
    books = filled(tmp_path)
    passage = books.search("warranty")[0]
    asked = [answered("How long is the warranty?", "31 months [1].", passage.digest)] * 3
    path = books.library.folder / "lamp.md"
    path.write_text(path.read_text().replace("31 months", "12 months"))
    assert propose_rows(books.library, tmp_path / "review", asked, 3) == ([], [])
