"""Chat: one version answers, through the API beside the page; thumbs and corrections go back."""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Form, HTTPException, Request, Response
from pydantic import BaseModel, Field
from starlette.types import ASGIApp

from llama_factory import run, upkeep
from llama_factory.core.errors import ServingError
from llama_factory.versions.workspace import Workspace
from llama_factory.web.api_client import ApiReply, ask_api
from llama_factory.web.pages import Who, attempt, back, may, render, words
from llama_factory.web.site import Here, visit_of
from llama_factory.web.talk import ChatForm, as_field, calls_of

MOST_VERSIONS = 100
"""The newest versions, as names to choose from; others may be typed into the address."""
UNAUTHORIZED = 401

router = APIRouter()


class FeedbackForm(BaseModel):
    """What a person says of an answer.

    Attributes:
        completion_id: of the answer.
        rating: whether it was liked.
        correction: what it should have been; empty for none.
        key: of the API, where it asks for one.
    """

    completion_id: str = Field(min_length=1, max_length=200)
    rating: Literal["up", "down"]
    correction: str = Field("", max_length=20_000)
    key: str = Field("", max_length=500)

    def body(self, user: str) -> dict[str, Any]:
        """The request to the API."""
        values = {"completion_id": self.completion_id, "rating": self.rating, "user": user}
        return values | ({"correction": self.correction} if self.correction.strip() else {})


@router.get("/chat")
async def chat(request: Request, workspace: Here, version: str = "production") -> Response:
    """The page."""
    return await _page(request, workspace, ChatForm.model_construct(version=version[:200]))


@router.post("/chat", dependencies=[may("viewer")])
async def ask(
    request: Request, workspace: Here, who: Who, form: Annotated[ChatForm, Form()]
) -> Response:
    """One answer as a whole: for browsers without a script."""
    api = api_of(request)
    try:
        body = form.body(who)
    except ServingError as error:
        return await _page(request, workspace, form, problem=str(error))
    reply = await ask_api(api, "chat/completions", body, form.key)
    return await _page(request, workspace, form, reply.body, reply.problem)


@router.post("/chat/feedback", dependencies=[may("viewer")])
async def feedback(request: Request, who: Who, form: Annotated[FeedbackForm, Form()]) -> Response:
    """A thumb and what the answer should have been, for rounds to come."""
    reply = await ask_api(api_of(request), "feedback", form.body(who), form.key)
    if reply.problem:
        return render(request, "problem", status=reply.status, problem=reply.problem)
    return back(request, "chat", words(request, "chat.thanks"))


async def _page(
    request: Request,
    workspace: Workspace,
    form: ChatForm,
    reply: dict[str, Any] | None = None,
    problem: str = "",
) -> Response:
    api = visit_of(request).site.api
    is_answered = reply is not None and not problem
    answer = dict(reply["choices"][0]["message"]) if reply and is_answered else {}
    before = ChatForm.model_construct(turns=form.turns).conversation
    return render(
        request,
        "chat",
        status=400 if problem else 200,
        has_api=api is not None,
        asks_key=api is not None and await asks_key(api),
        form=form,
        turns=form.conversation if is_answered else before,
        as_field=as_field,
        calls_of=calls_of,
        reply=reply if is_answered else None,
        answer=answer,
        problem=problem,
        names=names_to_ask(workspace, form.version),
    )


def names_to_ask(workspace: Workspace, *chosen: str) -> list[str]:
    """What may be asked by name: aliases, then versions, the newest first."""
    current, _ = attempt(lambda: upkeep.released(workspace))
    listed, _ = attempt(lambda: run.versions(workspace, last=MOST_VERSIONS))
    aliases = list(current.aliases) if current else []
    versions = [each.id for each in reversed(listed or []) if not each.problem]
    return list(dict.fromkeys(["production", *aliases, *versions, *filter(None, chosen)]))


def api_of(request: Request) -> ASGIApp:
    """The API that answers beside the page.

    Raises:
        HTTPException: none does.
    """
    api = visit_of(request).site.api
    if api is None:
        raise HTTPException(409, words(request, "chat.no_api"))
    return api


async def asks_key(api: ASGIApp) -> bool:
    """Whether the API answers only with a key."""
    reply: ApiReply = await ask_api(api, "models")
    return reply.status == UNAUTHORIZED
