"""What is asked often and answered from documents, as rows that a person may have taught.

Weights learn what stays, documents hold what moves: only answers whose passages still say the same
are offered.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llama_factory.core.types import Example, Message
from llama_factory.data.conflict_rules import digest
from llama_factory.data.review.cases import Case
from llama_factory.text.similar_questions import comparable_form
from llama_factory.text.words import search_words

GROUP = "knowledge"
"""Group of the rows."""
SUPPORT = 0.7
"""Fraction of an answer's words that a passage must hold where the answer names none."""
_CITATION = re.compile(r"\s*[\[［【]\d{1,3}[\]］】]")


@dataclass(frozen=True)
class GroundedAnswer:
    """An answer of the log that was given documents.

    Attributes:
        row: the conversation as it was asked, which ends with the answer.
        citations: as `Grounding.record` writes them.
    """

    row: Example
    citations: Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Proposal:
    """A question that was asked often, with the answer that documents still support.

    Attributes:
        question: in its most frequent wording.
        answer: the most frequent one, without its citations.
        num_asked: how often it was asked and answered from documents.
        files: the documents that support the answer.
    """

    question: str
    answer: str
    num_asked: int
    files: tuple[str, ...]

    @property
    def case(self) -> Case:
        """A case of the review, which waits for a person."""
        row = Example(
            (Message("user", self.question), Message("assistant", self.answer)),
            GROUP,
            f"{GROUP}/{self.files[0]}",
            0,
        )
        key = digest([GROUP, comparable_form(self.question), comparable_form(self.answer)])
        why = f"asked {self.num_asked} times, answered from {', '.join(self.files)}"
        return Case(key, "knowledge", (row,), why=why)

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "id": self.case.id,
            "question": self.question,
            "answer": self.answer,
            "num_asked": self.num_asked,
            "files": list(self.files),
        }


TextOf = Callable[[str], str | None]
"""What a passage says by its digest; None where no document says it any more."""


def propose(answers: Iterable[GroundedAnswer], text_of: TextOf, at_least: int) -> list[Proposal]:
    """Questions asked at least so often, the most frequent first.

    Only conversations of one question are looked at: a later turn is not understood alone.
    """
    asked: dict[str, list[tuple[str, str, frozenset[str]]]] = {}
    for each in answers:
        if [turn.role for turn in each.row.messages] != ["user", "assistant"]:
            continue
        question, answer = (turn.content.strip() for turn in each.row.messages)
        answer = _CITATION.sub("", answer).strip()
        if answer and (files := _supporting(answer, each.citations, text_of)):
            key = comparable_form(question)
            asked.setdefault(key, []).append((question, answer, files))
    found = [_proposal(listed) for listed in asked.values() if len(listed) >= at_least]
    return sorted(found, key=lambda each: (-each.num_asked, each.question))


def _proposal(listed: Sequence[tuple[str, str, frozenset[str]]]) -> Proposal:
    forms = Counter(comparable_form(answer) for _, answer, _ in listed)
    form = forms.most_common(1)[0][0]
    chosen = [each for each in listed if comparable_form(each[1]) == form]
    question = Counter(each[0] for each in listed).most_common(1)[0][0]
    files = frozenset[str]().union(*(each[2] for each in chosen))
    return Proposal(question, chosen[-1][1], len(listed), tuple(sorted(files)))


def _supporting(answer: str, given: Sequence[Mapping[str, Any]], text_of: TextOf) -> frozenset[str]:
    """Documents that still say what the answer says."""
    files = set()
    words = frozenset(search_words(answer))
    for each in given:
        text = text_of(str(each["digest"]))
        if text is None:
            if each["is_cited"]:
                return frozenset()  # what it names has changed
            continue
        held = len(words & frozenset(search_words(text))) / max(len(words), 1)
        if each["is_cited"] or held >= SUPPORT:
            files.add(str(each["file"]))
    return frozenset(files)
