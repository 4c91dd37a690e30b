"""Chat: one version answers, through the API beside the page; thumbs and corrections go back."""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Form, HTTPException, Request, Response
from pydantic import BaseModel, Field
from starlette.types import ASGIApp

from llama_factory import operate, run
from llama_factory.versions.workspace import Workspace
from llama_factory.web.api_client import ask_api
from llama_factory.web.pages import Who, attempt, back, may, render, words
from llama_factory.web.site import Here, visit_of

MOST_VERSIONS = 100
"""The newest versions, as names to choose from; others may be typed into the address."""
MOST_TURNS = 200
UNAUTHORIZED = 401

router = APIRouter()


class ChatForm(BaseModel):
    """What a person asks, and how.

    Attributes:
        version: alias or id.
        prompt: the new question.
        turns: what was said before: question, answer, question, ...
        temperature: 0 always takes the likeliest token.
        max_tokens: longest answer.
        knowledge: whether the documents of the workspace are drawn on.
        key: of the API, where it asks for one.
    """

    version: str = Field("production", min_length=1, max_length=200)
    prompt: str = Field("", max_length=100_000)
    turns: list[str] = Field([], max_length=MOST_TURNS)
    temperature: float = Field(0.7, ge=0, le=2)
    max_tokens: int = Field(512, ge=1, le=100_000)
    knowledge: bool = False
    key: str = Field("", max_length=500)

    def body(self, user: str) -> dict[str, Any]:
        """The request to the API."""
        roles = ("user", "assistant")
        said = [*self.turns, self.prompt]
        turns = [{"role": roles[n % 2], "content": text} for n, text in enumerate(said)]
        return {
            "model": self.version,
            "messages": turns,
            "temperature": self.temperature,
            "max_completion_tokens": self.max_tokens,
            "knowledge": {"use": self.knowledge},
            "user": user,
        }


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
    reply = await ask_api(_api(request), "chat/completions", form.body(who), form.key)
    return await _page(request, workspace, form, reply.body, reply.problem)


@router.post("/chat/feedback", dependencies=[may("viewer")])
async def feedback(request: Request, who: Who, form: Annotated[FeedbackForm, Form()]) -> Response:
    """A thumb and what the answer should have been, for rounds to come."""
    reply = await ask_api(_api(request), "feedback", form.body(who), form.key)
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
    site = visit_of(request).site
    api = site.api
    answer = "" if problem or not reply else reply["choices"][0]["message"]["content"] or ""
    asks_key = api is not None and (await ask_api(api, "models")).status == UNAUTHORIZED
    return render(
        request,
        "chat",
        status=400 if problem else 200,
        has_api=api is not None,
        asks_key=asks_key,
        form=form,
        turns=form.turns if problem or not reply else [*form.turns, form.prompt],
        reply=None if problem else reply,
        answer=answer,
        problem=problem,
        names=_names(workspace, form.version),
    )


def _names(workspace: Workspace, chosen: str) -> list[str]:
    """What may be asked by name: aliases, then versions, the newest first."""
    current, _ = attempt(lambda: operate.released(workspace))
    listed, _ = attempt(lambda: run.versions(workspace, last=MOST_VERSIONS))
    aliases = list(current.aliases) if current else []
    versions = [each.id for each in reversed(listed or []) if not each.problem]
    return list(dict.fromkeys(["production", *aliases, *versions, chosen]))


def _api(request: Request) -> ASGIApp:
    api = visit_of(request).site.api
    if api is None:
        raise HTTPException(409, words(request, "chat.no_api"))
    return api
