"""Messages -> text, as the tokenizer's own chat template writes them, and the tokens of prompts.

Which tokens are trained is decided in `masks.py`.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase
from transformers.utils.chat_template_utils import render_jinja_template

from llama_factory.core.types import Message, ToolCall
from llama_factory.model.chat.prompt_format import USUAL, PromptFormat
from llama_factory.model.chat.tokens import (
    ControlTokens,
    Span,
    Tokens,
    find_control_tokens,
    first_difference,
    tokenize,
)

Turn = dict[str, Any]
"""One turn as templates want it: OpenAI's shape, with arguments as a mapping."""

MARKS = re.compile(r"\{%-?\s*generation\s*-?%\}")
"""What a template that marks the assistant's tokens itself begins an answer with."""

BEGUN_TAG = re.compile(r"[<\[][^<>\[\]\s]*\Z")
"""The beginning of a tag at the end of a text."""

REFUSALS = (TemplateError, TypeError, json.JSONDecodeError)
"""What rendering raises when a template was not written for such a conversation, or when its tools
are no JSON."""


@dataclass(frozen=True)
class Habits:
    """What a template does with the parts of a conversation, found by rendering small ones.

    Attributes:
        end_tokens: those that end an answer, one right after the other.
        opening: what a question ends with and the answer after it lacks: a thought that the model
            is to go on with.
        opening_before: the same of an answer that other turns follow.
        shows_system: whether a system turn appears (or is refused aloud).
        shows_tools: whether the list of tools appears.
        shows_results: whether a tool's turn appears (or is refused aloud).
        shows_calls: whether the calls of a turn without text appear.
        shows_calls_beside_text: whether the calls of a turn with text appear.
    """

    end_tokens: tuple[str, ...]
    opening: str
    opening_before: str
    shows_system: bool
    shows_tools: bool
    shows_results: bool
    shows_calls: bool
    shows_calls_beside_text: bool

    @property
    def end(self) -> str:
        """Text of the tokens that end an answer; empty where there is none."""
        return "".join(self.end_tokens)


@dataclass(frozen=True)
class Renderer:
    """Writes conversations as one model's chat template does.

    Parts that the template would drop in silence are written as JSON text into the turns. Control
    tokens that turns hold are written as stand-ins (`tokens.py`).

    Attributes:
        tokenizer: has a chat template, if the format has none.
        tools: JSON list of tools, as text; empty for none.
        format: how conversations are written.
    """

    tokenizer: PreTrainedTokenizerBase
    tools: str = ""
    format: PromptFormat = USUAL

    @property
    def template(self) -> str:
        """The Jinja text that renders these conversations."""
        return self.format.template_for(self.tokenizer, has_tools=bool(self.tools.strip()))

    @property
    def is_marked(self) -> bool:
        """Whether the template itself marks the assistant's tokens."""
        return MARKS.search(self.template) is not None

    @property
    def habits(self) -> Habits:
        """What the template does with the parts of a conversation."""
        return find_habits(self.tokenizer, self.template, tuple(self._options.items()))

    @property
    def control(self) -> ControlTokens:
        """The tokens that turns cannot write."""
        ends, allowed = self.habits.end_tokens, self.format.text_tokens
        return find_control_tokens(self.tokenizer, self.template, ends, allowed)

    @property
    def _options(self) -> dict[str, Any]:
        """What the template is given besides the turns."""
        thinking, end = self.format.enable_thinking, self.format.end_token
        options = {} if thinking is None else {"enable_thinking": thinking}
        return options | ({"eos_token": end} if end else {})

    def turns(self, messages: Sequence[Message]) -> tuple[list[Turn], list[Turn] | None]:
        """What the template is given: the turns, and the tools if it shows them itself."""
        habits, control = self.habits, self.control
        if self.format.default_system and messages[0].role != "system":
            messages = [Message("system", self.format.default_system), *messages]
        turns, tools = _turns(messages, habits), _tools(self.tools)
        if tools and not habits.shows_tools:
            turns[0] = turns[0] | {"content": _with_tools(self.tools, turns[0]["content"])}
            tools = None
        return [_hidden(turn, control) for turn in turns], control.hidden(tools)

    def text(self, messages: Sequence[Message], *, ask: bool) -> str:
        """The conversation as text; with `ask`, up to where the assistant's answer begins.

        Raises:
            TemplateError: the template refuses it.
        """
        return self._write(messages, ask=ask, mark=False)[0]

    def marked(self, messages: Sequence[Message]) -> tuple[str, list[Span]]:
        """The conversation as text, and what the template marks as the assistant's.

        Raises:
            TemplateError: the template refuses it.
        """
        return self._write(messages, ask=False, mark=True)

    def _write(
        self, messages: Sequence[Message], *, ask: bool, mark: bool
    ) -> tuple[str, list[Span]]:
        turns, tools = self.turns(messages)
        options = {"add_generation_prompt": ask, "return_assistant_tokens_mask": mark}
        options |= self._options
        return _rendered(self.tokenizer, self.template, turns, tools=tools, options=options)


def prompt_tokens(messages: Sequence[Message], renderer: Renderer) -> Tokens:
    """The prompt of a conversation, up to where the answer begins.

    Tests, chat and the server ask with it. Training rows have the same prompts (`prompts_of`): both
    are `Renderer.text(..., ask=True)`.

    Raises:
        TemplateError: the template refuses the turns.
    """
    text = renderer.text(messages, ask=True)
    starts = answer_starts(prompts_of(messages, renderer), text)
    return tokenize(renderer.tokenizer, text, renderer.control, sorted(starts.values()))


def prompts_of(messages: Sequence[Message], renderer: Renderer) -> dict[int, str]:
    """The prompts of all answers of a conversation, by the numbers of their turns."""
    found = {}
    for number, turn in enumerate(messages):
        if turn.role == "assistant" and number:
            try:
                found[number] = renderer.text(messages[:number], ask=True)
            except REFUSALS:
                continue  # a template may need what follows; the last answer's prompt is whole
    return found


def answer_starts(asked: Mapping[int, str], text: str) -> dict[int, int]:
    """Where answers begin in a text: where it begins with their prompts."""
    return {number: len(each) for number, each in asked.items() if text.startswith(each)}


@lru_cache(maxsize=16)
def find_habits(
    tokenizer: PreTrainedTokenizerBase, template: str, options: tuple[tuple[str, Any], ...]
) -> Habits:
    """What a template shows and hides, by rendering small conversations."""
    given = dict(options)
    user: Turn = {"role": "user", "content": "q1"}
    answer: Turn = {"role": "assistant", "content": "zqanswer"}
    call = {"name": "zqcall", "arguments": {"zqkey": 1}}
    calling: Turn = {"role": "assistant", "tool_calls": [_call_turn(call, 1)]}
    beside = [user, calling | {"content": "a1"}]
    alone = [user, calling | {"content": ""}]
    named = {"name": "zqcall", "tool_call_id": "call00001"}
    result: Turn = {"role": "tool", "content": "zqresult", **named}
    tool: Turn = {"type": "function", "function": _wanted_tool("zqtool")}

    def shows(word: str, turns: list[Turn], tools: list[Turn] | None = None) -> bool | None:
        try:
            return word in _rendered(tokenizer, template, turns, tools=tools, options=given)[0]
        except REFUSALS:
            return None

    calls = bool(shows("zqcall", alone) and shows("zqkey", alone))
    asked = alone if calls else [user, answer]
    return Habits(
        end_tokens=_end_of_answer(tokenizer, template, [user, answer], given),
        opening=_opening(tokenizer, template, [user, answer], given),
        opening_before=_opening(tokenizer, template, [user, answer, user], given),
        shows_system=shows("zqsystem", [{"role": "system", "content": "zqsystem"}, user])
        is not False,
        shows_tools=bool(shows("zqtool", [user], [tool])),
        shows_results=shows("zqresult", [*asked, result]) is not False,
        shows_calls=calls,
        shows_calls_beside_text=bool(shows("zqcall", beside)),
    )


def _opening(
    tokenizer: PreTrainedTokenizerBase, template: str, talk: list[Turn], options: dict[str, Any]
) -> str:
    """What asking the first turn ends with and the answer to it, the second turn, lacks."""
    asking = options | {"add_generation_prompt": True}
    try:
        asked = _rendered(tokenizer, template, talk[:1], options=asking)[0]
        alone = _rendered(tokenizer, template, talk[:1], options=options)[0]
        whole = _rendered(tokenizer, template, talk, options=options)[0]
    except REFUSALS:
        return ""
    common = first_difference(asked, whole)
    if common < first_difference(asked, alone):
        return ""  # the turns themselves are written otherwise
    begun = BEGUN_TAG.search(asked[:common])
    return asked[begun.start() if begun else common :]


def _end_of_answer(
    tokenizer: PreTrainedTokenizerBase, template: str, turns: list[Turn], options: dict[str, Any]
) -> tuple[str, ...]:
    """The tokens of their own that the template writes right after an answer.

    What it writes only after the last answer (a token that ends the text) is not part of them.
    """
    tails = []
    for talk in (turns, [*turns, turns[0], turns[1] | {"content": "a2"}]):
        try:
            tails.append(
                _rendered(tokenizer, template, talk, options=options)[0].partition("zqanswer")[2]
            )
        except REFUSALS:
            continue
    known = {str(token) for token in tokenizer.added_tokens_decoder.values()}
    known |= set(tokenizer.all_special_tokens)
    common = tails[0][: first_difference(tails[0], tails[-1])] if tails else ""
    return _first_run(common, known) or _first_run(tails[0] if tails else "", known)


def _first_run(text: str, known: set[str]) -> tuple[str, ...]:
    """The first of the known tokens in a text, with those that follow it at once."""
    spelt = "|".join(map(re.escape, sorted(known - {""}, key=len, reverse=True)))
    found = re.search(f"(?:{spelt})+", text) if spelt else None
    return tuple(re.findall(spelt, found[0])) if found else ()


def _rendered(
    tokenizer: PreTrainedTokenizerBase,
    template: str,
    turns: list[Turn],
    *,
    tools: list[Turn] | None = None,
    options: Mapping[str, Any] | None = None,
) -> tuple[str, list[Span]]:
    # What `apply_chat_template` does, which returns tokens only and not the places of marks.
    texts, marks = render_jinja_template(
        [turns],
        tools=tools,
        chat_template=template,
        **(tokenizer.special_tokens_map | dict(options or {})),
    )
    return texts[0], list(marks[0]) if marks else []


def _turns(messages: Sequence[Message], habits: Habits) -> list[Turn]:
    """The messages as the template wants them; what it would hide is written as text."""
    turns: list[Turn] = []
    waiting: list[Turn] = []
    num_calls = 0
    for message in messages:
        turn: Turn = {"role": message.role, "content": message.content}
        if message.tool_calls:
            calls = [_call(call) for call in message.tool_calls]
            shown = habits.shows_calls_beside_text if message.content else habits.shows_calls
            waiting = [_call_turn(call, num_calls + i) for i, call in enumerate(calls, 1)]
            num_calls += len(calls)
            turn |= {"tool_calls": [*waiting]} if shown else {"content": _spelt(message, calls)}
        elif message.role == "tool":
            turn = _result(turn, waiting, habits)
        turns.append(turn)
    return turns if habits.shows_system else _without_system(turns)


def _hidden(turn: Turn, control: ControlTokens) -> Turn:
    """A turn with stand-ins for the control tokens in its text and calls."""
    return {
        name: value if name == "role" else control.hidden(value) for name, value in turn.items()
    }


def _result(turn: Turn, waiting: list[Turn], habits: Habits) -> Turn:
    """A tool's turn, with the call that it answers: the oldest one that still waits."""
    if not habits.shows_results:
        return turn | {"role": "user"}
    if not waiting:
        return turn
    call = waiting.pop(0)
    return turn | {"name": call["function"]["name"], "tool_call_id": call["id"]}


def _without_system(turns: list[Turn]) -> list[Turn]:
    """A system turn that the template would hide begins the user's first turn instead."""
    if len(turns) < 2 or turns[0]["role"] != "system":
        return turns
    content = f"{turns[0]['content']}\n\n{turns[1]['content']}"
    return [turns[1] | {"content": content}, *turns[2:]]


def _call(call: ToolCall) -> dict[str, Any]:
    return {"name": call.name, "arguments": _arguments(call.arguments)}


def _arguments(text: str) -> Any:
    """The arguments as a mapping; text that is no JSON object is handed on as it is."""
    try:
        value = json.loads(text)
    except json.JSONDecodeError:
        return text
    return value if isinstance(value, dict) else text


def _call_turn(call: dict[str, Any], number: int) -> Turn:
    # Nine letters and digits: what Mistral's templates demand of an id.
    return {"id": f"call{number:05d}", "type": "function", "function": call}


def _spelt(message: Message, calls: Sequence[dict[str, Any]]) -> str:
    """The turn's text and its calls, one JSON object a line."""
    lines = [json.dumps(call, ensure_ascii=False) for call in calls]
    return "\n".join([message.content, *lines] if message.content else lines)


def _with_tools(tools: str, content: str) -> str:
    """The tools before a turn's text, for templates that do not show them."""
    return f"Tools you may call, as JSON:\n{tools}\n\n{content}"


@lru_cache(maxsize=256)
def _parsed_tools(text: str) -> tuple[Turn, ...]:
    tools = json.loads(text)
    listed = tools if isinstance(tools, list) else [tools]
    return tuple(
        {"type": "function", "function": tool} if "function" not in tool else tool
        for tool in listed
    )


def _tools(text: str) -> list[Turn] | None:
    """The tools in OpenAI's shape; plain function descriptions are wrapped."""
    return list(_parsed_tools(text)) or None if text.strip() else None


def _wanted_tool(name: str) -> Turn:
    kind = {"type": "object", "properties": {}, "required": []}
    return {"name": name, "description": "A tool.", "parameters": kind}
