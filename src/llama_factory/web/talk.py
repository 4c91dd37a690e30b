"""What a person asks in the chat, as a form has it and as the API takes it."""

import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, Field, field_validator

from llama_factory.core.errors import ServingError
from llama_factory.core.sentences import kind_of_sentence as kind

NO_TOOLS = kind("problem.no_tools", "the tools are no JSON ({error}). Write them as a list.")

MOST_TURNS = 400
MOST_CHARACTERS = 100_000
MOST_STOPS = 4
ROLES = ("user", "assistant", "tool")

Number = Annotated[float | None, BeforeValidator(lambda each: None if each == "" else each)]
Whole = Annotated[int | None, BeforeValidator(lambda each: None if each == "" else each)]
"""An empty field leaves the API's own value."""


class HowToAnswer(BaseModel):
    """Parameters of an answer.

    Attributes:
        temperature: 0 always takes the likeliest token.
        max_tokens: longest answer.
        top_p: tokens are drawn from the likeliest that have this probability together.
        seed: same seed, same answer.
        stop: texts that end the answer, one a line.
        system: what the version is told to be.
        key: of the API, where it asks for one.
    """

    temperature: float = Field(0.7, ge=0, le=2)
    max_tokens: int = Field(512, ge=1, le=MOST_CHARACTERS)
    top_p: Number = Field(None, gt=0, le=1)
    seed: Whole = Field(None, ge=0, lt=2**31)
    stop: str = Field("", max_length=2000)
    system: str = Field("", max_length=MOST_CHARACTERS)
    key: str = Field("", max_length=500)

    def values(self) -> dict[str, Any]:
        """The same for the API; what was left empty is left out."""
        stops = [line for line in self.stop.splitlines() if line.strip()][:MOST_STOPS]
        given = {"top_p": self.top_p, "seed": self.seed, "stop": stops or None}
        return {
            "temperature": self.temperature,
            "max_completion_tokens": self.max_tokens,
            **{name: value for name, value in given.items() if value is not None},
        }

    def system_turn(self) -> list[dict[str, Any]]:
        """What comes before all other turns."""
        return [{"role": "system", "content": self.system}] if self.system.strip() else []


class ChatForm(HowToAnswer):
    """What a person asks one version.

    Attributes:
        version: alias or id.
        prompt: the new question; may be empty where results of tools are given.
        turns: what was said before, each turn as the API has it, in JSON.
        results: what the tools that the last turn called gave, in order.
        knowledge: whether the documents of the workspace are drawn on.
        tools: that the version may call, a list in JSON as the API has it.
    """

    version: str = Field("production", min_length=1, max_length=200)
    prompt: str = Field("", max_length=MOST_CHARACTERS)
    turns: list[str] = Field([], max_length=MOST_TURNS)
    results: list[str] = Field([], max_length=MOST_TURNS)
    knowledge: bool = False
    tools: str = Field("", max_length=MOST_CHARACTERS)

    @field_validator("turns")
    @classmethod
    def _can_be_read(cls, turns: list[str]) -> list[str]:
        for text in turns:
            turn = json.loads(text)
            if not isinstance(turn, dict) or turn.get("role") not in ROLES:
                raise ValueError("a turn that is none")
        return turns

    @property
    def conversation(self) -> list[dict[str, Any]]:
        """All turns but the system's, with the new one."""
        before: list[dict[str, Any]] = [json.loads(text) for text in self.turns]
        calls = before[-1].get("tool_calls") or [] if before else []
        answered = [
            {"role": "tool", "content": text, "tool_call_id": call.get("id")}
            for call, text in zip(calls, self.results, strict=False)
        ]
        asked = [{"role": "user", "content": self.prompt}] if self.prompt.strip() else []
        return [*before, *answered, *asked]

    def body(self, user: str) -> dict[str, Any]:
        """The request to the API.

        Raises:
            ServingError: the tools are no JSON.
        """
        tools = read_tools(self.tools)
        return {
            "model": self.version,
            "messages": [*self.system_turn(), *self.conversation],
            "knowledge": {"use": self.knowledge},
            "user": user,
            **self.values(),
            **({"tools": tools} if tools else {}),
        }


def read_tools(text: str) -> list[Any]:
    """Tools as a person wrote them: a JSON list, or one of them.

    Raises:
        ServingError: the text is neither.
    """
    if not text.strip():
        return []
    try:
        tools = json.loads(text)
    except ValueError as error:
        raise ServingError(NO_TOOLS(error=error)) from error
    return tools if isinstance(tools, list) else [tools]


def as_field(turn: Mapping[str, Any]) -> str:
    """A turn as a hidden field keeps it."""
    kept = {name: turn[name] for name in ("role", "content", "tool_calls", "tool_call_id")
            if turn.get(name) is not None}  # fmt: skip
    return json.dumps(kept, ensure_ascii=False)


def calls_of(turn: Mapping[str, Any]) -> Sequence[Mapping[str, str]]:
    """The functions that a turn calls: name and arguments."""
    return [
        {"name": str(each["function"]["name"]), "arguments": str(each["function"]["arguments"])}
        for each in turn.get("tool_calls") or ()
        if isinstance(each, dict) and isinstance(each.get("function"), dict)
        and {"name", "arguments"} <= set(each["function"])
    ]  # fmt: skip
