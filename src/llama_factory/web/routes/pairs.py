"""Two answers side by side, whose they are hidden until a person votes; and all votes so far."""

import asyncio
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Form, Request, Response
from pydantic import BaseModel, Field
from starlette.types import ASGIApp

from llama_factory import curate
from llama_factory.core.errors import DataError, ServingError
from llama_factory.jobs.votes import AnswerPair, Choice, Contestant, PairedAnswer
from llama_factory.versions.workspace import Workspace
from llama_factory.web.api_client import ask_api
from llama_factory.web.pages import Who, attempt, back, may, render, words
from llama_factory.web.routes.chat import api_of, asks_key, names_to_ask
from llama_factory.web.site import Here, visit_of
from llama_factory.web.talk import MOST_CHARACTERS, HowToAnswer

MOST_CORRECTION = 20_000
"""Characters of an answer that may be offered as a lesson: so many the API takes."""

router = APIRouter()


class PairForm(HowToAnswer):
    """What a person asks two contestants.

    Attributes:
        prompt: the question.
        first: alias or id of one version.
        second: of the other one; the same where only the documents differ.
        first_knowledge: whether the first one draws on the documents.
        second_knowledge: whether the second one does.
    """

    prompt: str = Field(min_length=1, max_length=MOST_CHARACTERS)
    first: str = Field("production", min_length=1, max_length=200)
    second: str = Field("", max_length=200)
    first_knowledge: bool = False
    second_knowledge: bool = False

    def bodies(self, user: str) -> tuple[dict[str, Any], dict[str, Any]]:
        """The requests to the API; both are asked in the same words and with the same settings."""
        turns = [*self.system_turn(), {"role": "user", "content": self.prompt}]
        same = {"messages": turns, "user": user, **self.values()}
        first = {"model": self.first, "knowledge": {"use": self.first_knowledge}}
        second = {"model": self.second, "knowledge": {"use": self.second_knowledge}}
        return same | first, same | second


class VoteForm(BaseModel):
    """Which answer was liked.

    Attributes:
        pair: id of the pair.
        choice: which.
        teach: whether the better answer is offered as a lesson.
        key: of the API, where it asks for one.
    """

    pair: str = Field(max_length=40)
    choice: Choice
    teach: bool = False
    key: str = Field("", max_length=500)


@router.get("/chat/pairs")
async def pairs(request: Request, workspace: Here, pair: str = "", first: str = "") -> Response:
    """The form, with the pair that waits for this person's vote, or that they voted on."""
    form = PairForm.model_construct(prompt="", first=first or "production", second="")
    found, problem = attempt(lambda: curate.pair(workspace, pair, _who(request)) if pair else None)
    return await _page(request, workspace, form, found, problem)


@router.post("/chat/pairs", dependencies=[may("viewer")])
async def ask(
    request: Request, workspace: Here, who: Who, form: Annotated[PairForm, Form()]
) -> Response:
    """Ask both; nothing is shown before both are whole: their speed would tell them apart."""
    try:
        answers = await _answers(api_of(request), form, who)
        kept = curate.keep_pair(workspace, who, form.prompt, answers)
    except (DataError, ServingError) as error:
        return await _page(request, workspace, form, None, str(error))
    return back(request, f"chat/pairs?pair={kept.id}")


@router.post("/chat/pairs/vote", dependencies=[may("viewer")])
async def vote(
    request: Request, workspace: Here, who: Who, form: Annotated[VoteForm, Form()]
) -> Response:
    """Note the vote, and then whose the answers were."""
    voted = curate.vote(workspace, form.pair, who, form.choice)
    notice = words(request, "pairs.voted")
    if form.teach:
        problem = await _offer(api_of(request), voted, who, form.key)
        notice += f" {problem or words(request, 'pairs.offered')}"
    return back(request, f"chat/pairs?pair={voted.id}", notice)


async def _answers(api: ASGIApp, form: PairForm, who: str) -> list[PairedAnswer]:
    """Both answers.

    Raises:
        ServingError: one of them could not be given.
    """
    bodies = form.bodies(who)
    replies = await asyncio.gather(
        *(ask_api(api, "chat/completions", body, form.key) for body in bodies)
    )
    for reply in replies:
        if reply.problem:
            raise ServingError(reply.problem)
    return [
        PairedAnswer(
            Contestant(str(reply.body["model"]), bool(body["knowledge"]["use"])),
            reply.body["choices"][0]["message"]["content"] or "",
            str(reply.body["id"]),
            tuple(reply.body.get("citations") or ()),
        )
        for body, reply in zip(bodies, replies, strict=True)
    ]


async def _offer(api: ASGIApp, voted: AnswerPair, who: str, key: str) -> str:
    """Send the better answer as a correction of the other one; why that was not done, if so."""
    better, worse = voted.better, voted.worse
    if better is None or worse is None or not better.text.strip():
        return ""
    body = {
        "completion_id": worse.completion_id,
        "rating": "down",
        "correction": better.text[:MOST_CORRECTION],
        "tags": ["side by side"],
        "comment": f"{better.contestant.version} was liked more than {worse.contestant.version}",
        "user": who,
    }
    return (await ask_api(api, "feedback", body, key)).problem


def _who(request: Request) -> str:
    user = visit_of(request).user
    return user.name if user else ""


async def _page(
    request: Request,
    workspace: Workspace,
    form: PairForm,
    pair: AnswerPair | None,
    problem: str,
) -> Response:
    api = visit_of(request).site.api
    names = names_to_ask(workspace, form.first, form.second)
    counted, wrong = attempt(partial(curate.votes, workspace))
    return render(
        request,
        "pairs",
        status=400 if problem else 200,
        has_api=api is not None,
        asks_key=api is not None and await asks_key(api),
        form=form,
        pair=pair,
        problem=problem or wrong,
        names=names,
        second=form.second or next((each for each in names if each == "previous"), names[-1]),
        duels=counted or [],
    )
