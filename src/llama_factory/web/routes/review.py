"""Review: rows in dispute, one by one, decided by people through buttons or keys."""

from typing import Annotated, Literal

from fastapi import APIRouter, Form, Request, Response
from pydantic import BaseModel, Field, field_validator

from llama_factory import curate
from llama_factory.core.errors import DataError
from llama_factory.core.sentences import kind_of_sentence as kind
from llama_factory.data.review.cases import Case, Choice
from llama_factory.web.pages import Who, attempt, back, may, render, who, words
from llama_factory.web.site import Here

NOTHING_CHOSEN = kind(
    "problem.nothing_chosen", "no answer is chosen. Mark one or more, or drop all."
)

MOST_ANSWERS = 1000

router = APIRouter()


class ReviewForm(BaseModel):
    """What a person wants done with a case.

    Attributes:
        do: keep answers, write one, drop all rows, or leave it unresolved.
        numbers: of the answers to keep, from 1.
        edited: the answer, or the row as JSON, to take instead.
        note: why.
        next: id of the case to show then.
    """

    do: Literal["keep", "edit", "drop", "unresolved"]
    numbers: list[int] = Field([], max_length=MOST_ANSWERS)
    edited: str = ""
    note: str = Field("", max_length=4000)
    next: str = Field("", max_length=200)

    @field_validator("edited")
    @classmethod
    def _as_typed(cls, text: str) -> str:
        """Browsers send two characters at the end of a line."""
        return text.replace("\r\n", "\n")

    def choice(self, case: Case) -> Choice:
        """The same as the review knows it.

        Raises:
            DataError: no answer is chosen or written, or a number is none of the case's.
        """
        if self.do == "unresolved":
            return Choice(is_unresolved=True)
        if self.do == "drop":
            return Choice()
        if self.do == "edit":
            case.rewritten(self.edited)
            return Choice(edited=self.edited)
        if not self.numbers:
            raise DataError(NOTHING_CHOSEN())
        return case.keep(*self.numbers)


@router.get("/review")
def review(request: Request, workspace: Here, case: str = "") -> Response:
    """One open case; the first one unless it is named.

    Args:
        request: that is answered.
        workspace: whose cases.
        case: id of the one to show.
    """
    waiting, problem = attempt(lambda: curate.cases(workspace, who(request)))
    listed = waiting or []
    shown = _place(listed, case)
    current = listed[shown] if listed else None
    later = listed[(shown + 1) % len(listed)] if listed else None
    return render(
        request,
        "review",
        case=current,
        place=shown + 1,
        count=len(listed),
        next=later.id if later and later is not current else "",
        problem=problem,
        summary=attempt(lambda: curate.review_summary(workspace))[0],
        decided=attempt(lambda: curate.decided(workspace, who(request)))[0] or [],
    )


@router.post("/review/{case}", dependencies=[may("reviewer")])
def decide(
    request: Request, workspace: Here, who: Who, case: str, form: Annotated[ReviewForm, Form()]
) -> Response:
    """Log a decision and show the next case."""
    known = curate.case(workspace, case)
    after = curate.decide(workspace, known.id, who, form.choice(known), form.note)
    done = "review.settled" if after.state == "resolved" else "review.noted"
    target = f"review?case={form.next}" if form.next.isalnum() else "review"
    return back(request, target, words(request, done, case=known.id[:8]))


@router.post("/review/{case}/take-back", dependencies=[may("reviewer")])
def take_back(request: Request, workspace: Here, who: Who, case: str) -> Response:
    """The visitor's own last decision about a case counts no more."""
    known = curate.case(workspace, case)
    if not known.votes or known.votes[-1].reviewer != who:
        raise DataError(words(request, "review.not_yours"))
    curate.take_back(workspace, known.id, who)
    return back(request, f"review?case={known.id}", words(request, "review.taken_back"))


def _place(listed: list[Case], case_id: str) -> int:
    return next((n for n, each in enumerate(listed) if each.id == case_id), 0)
