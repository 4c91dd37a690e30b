"""Body of `POST /v1/chat/completions`."""

import hashlib
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from llama_factory.inference.question import Options, Prompt, Question, RequestError
from llama_factory.serving.outcome import Caller
from llama_factory.serving.protocol.fields import (
    CONSTRAINTS,
    MAX_TOP_LOGPROBS,
    AnswerRequest,
    RequestPart,
)
from llama_factory.serving.protocol.tool_calls import ToolUse, tool_use
from llama_factory.serving.request_turns import read_tools, read_turns

MAX_MESSAGES = 2048
MAX_TOOLS = 128
"""Both as OpenAI has them."""


def _text(content: Any) -> Any:
    """Content as text: a string, or a list of parts of type `text`, joined as training does."""
    if content is None or isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise ValueError("must be a string or a list of parts")
    return "".join(map(_part_text, content))


def _part_text(part: Any) -> str:
    kind = part.get("type") if isinstance(part, dict) else None
    name = "refusal" if kind == "refusal" else "text"
    if kind not in ("text", "refusal") or not isinstance(part.get(name), str):
        raise ValueError(
            f'a part of type {kind!r} cannot be read: send {{"type": "text", "text": "..."}}'
        )
    return str(part[name])


class ChatMessage(RequestPart):
    """One turn of the conversation."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Annotated[str | None, BeforeValidator(_text)] = None


class TemplateOptions(BaseModel):
    """What the chat template is given besides the turns."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    enable_thinking: bool | None = None


MAX_PASSAGES = 50


class KnowledgeOptions(BaseModel):
    """Whether documents are drawn on, and how many passages of them."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    use: bool | None = None
    top_k: int | None = Field(None, ge=1, le=MAX_PASSAGES)


class ChatTurns(RequestPart):
    """What is asked in turns."""

    messages: list[ChatMessage] = Field(min_length=1, max_length=MAX_MESSAGES)
    tools: list[Any] | None = Field(None, max_length=MAX_TOOLS)
    tool_choice: Any = None
    enable_thinking: bool | None = None
    chat_template_kwargs: TemplateOptions | None = None

    def question(self) -> Question:
        """What is asked.

        Raises:
            RequestError: a turn or a tool cannot be read.
        """
        turns = [turn.model_dump(exclude_unset=True) for turn in self.messages]
        tools = read_tools(self.tools)
        shown = "" if self.tool_choice == "none" else tools
        return Question(read_turns(turns), shown, self._thinking())

    def _thinking(self) -> bool | None:
        options = self.chat_template_kwargs or TemplateOptions()
        given = {self.enable_thinking, options.enable_thinking} - {None}
        if len(given) > 1:
            raise RequestError(
                "enable_thinking: chat_template_kwargs says the opposite. Leave one out.",
                param="enable_thinking",
            )
        return next(iter(given), None)


class ChatRequest(AnswerRequest, ChatTurns):
    """Body of `POST /v1/chat/completions`."""

    max_completion_tokens: int | None = Field(None, ge=1)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=MAX_TOP_LOGPROBS)
    parallel_tool_calls: bool | None = None
    knowledge: KnowledgeOptions | None = None

    def choices(self, max_tokens: int) -> tuple[tuple[Prompt, Options], ...]:
        """What is asked and how, once for each of the `n` answers.

        Args:
            max_tokens: longest answer where the request does not say.

        Raises:
            RequestError: a field is not supported, or a value cannot be read.
        """
        self.require_known()
        question, use = self.question(), self.tool_use()
        if use.names and (name := self._other_constraint()):
            raise RequestError(
                f"{name}: an answer held to it could call no tool. Leave it or the tools out, or "
                "set tool_choice to none.",
                param=name,
            )
        longest = self.max_completion_tokens or self.max_tokens or max_tokens
        options = self.options_of(
            longest, num_logprobs=self._num_logprobs(), constraint=use.constraint
        )
        return tuple((question, each) for each in options)

    def tool_use(self) -> ToolUse:
        """Which tools may be called; `question` has read them.

        Raises:
            RequestError: the choice cannot be read.
        """
        return tool_use(self.tools, self.tool_choice, self.parallel_tool_calls)

    def _other_constraint(self) -> str:
        """The field that holds the answer to something; empty where none does."""
        given = [name for name in CONSTRAINTS if getattr(self, name) is not None]
        return given[0] if given and self.constraint() else ""

    def caller(self, key_id: str) -> Caller:
        """Who asks; the conversation is known by its first turns, which all its requests hold."""
        first = next(
            (n for n, turn in enumerate(self.messages, 1) if turn.role == "user"),
            len(self.messages),
        )
        begun = [f"{turn.role}\n{turn.content}" for turn in self.messages[:first]]
        text = "\n".join([key_id, self.user or "", *begun])
        digest = hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=16)
        begins = all(turn.role != "assistant" for turn in self.messages)
        return Caller(key_id, self.user or "", digest.hexdigest(), begins)

    def _num_logprobs(self) -> int | None:
        if self.top_logprobs and not self.logprobs:
            raise RequestError(
                "top_logprobs: needs logprobs. Set logprobs to true.", param="top_logprobs"
            )
        return (self.top_logprobs or 0) if self.logprobs else None
