"""Where the answers of a conversation stand in the text that the chat template makes of it.

The template's own marks show it; without marks, rendering the turns before an answer must give a
prefix of rendering them all. Nothing here knows any model's format.
"""

import logging
import re
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from transformers import PreTrainedTokenizerBase

from llama_factory.core.errors import ModelError
from llama_factory.core.types import Example, Message
from llama_factory.model.chat.template import Renderer, answer_starts, prompts_of
from llama_factory.model.chat.tokens import Span, Tokens, first_difference, tokenize

logger = logging.getLogger(__name__)

OPEN_TAG = re.compile(r"([<\[])([\w:|]+)([>\]])\s*\Z")
"""A tag that is opened at the end of a text, such as `<think>`."""

Written = tuple[str, tuple[Span, ...] | None]
"""A conversation as text, and what its template marks in it; None where it has no marks."""

CONTEXT = 8
"""Tokens shown on either side of the place where two renderings part."""


@dataclass(frozen=True)
class Conversation:
    """A row's turns, or what is left of them, as the template writes them.

    Attributes:
        renderer: wrote them.
        messages: the turns that are left.
        tokens: all of them rendered.
        asked: the prompt of each answer, by the number of its turn.
        marks: what the template marks as the assistant's; None where it has no marks.
        lost_turns: how many of the oldest turns are left out.
        place: file and line of the row, for messages.
    """

    renderer: Renderer
    messages: tuple[Message, ...]
    tokens: Tokens
    asked: Mapping[int, str]
    marks: tuple[Span, ...] | None
    lost_turns: int
    place: str

    @property
    def starts(self) -> dict[int, int]:
        """Where answers begin, of those whose prompts the conversation begins with."""
        return answer_starts(self.asked, self.tokens.text)


def write(example: Example, renderer: Renderer, *, lost_turns: int = 0) -> Conversation:
    """A row's turns as text and tokens, without its oldest turns; a system turn stays.

    Raises:
        TemplateError: the template refuses the turns.
    """
    kept = _left(example, lost_turns)
    asked = prompts_of(kept, renderer)
    marks: tuple[Span, ...] | None = None
    if renderer.is_marked:
        text, found = renderer.marked(kept)
        marks = tuple(found)
    else:
        text = renderer.text(kept, ask=False)
    last = len(kept) - 1
    if last in asked and not text.startswith(asked[last]):
        text, marks = _after_prompt(kept, renderer, asked[last], (text, marks))
    borders = sorted({*answer_starts(asked, text).values()})
    tokens = tokenize(renderer.tokenizer, text, renderer.control, borders)
    place = f"{example.file}:{example.line}"
    return Conversation(renderer, kept, tokens, asked, marks, lost_turns, place)


def _left(example: Example, lost_turns: int) -> tuple[Message, ...]:
    head = _num_system(example.messages)
    return example.messages[:head] + example.messages[head + lost_turns :]


def _after_prompt(
    messages: Sequence[Message], renderer: Renderer, asked: str, written: Written
) -> Written:
    """A conversation that begins with its last prompt, where that opens what the answer lacks.

    Prompts of reasoning models end with an opened thought that their templates leave out, or drop,
    when the answer follows. The answer goes on with it; where the two differ otherwise, nothing is
    changed.
    """
    text, marks = written
    opening = renderer.habits.opening
    base = asked.removesuffix(opening)
    if base == asked or not text.startswith(base):
        return written
    thought, spoken = _split_thought(messages[-1].content, opening)
    if spoken != messages[-1].content:
        text = renderer.text([*messages[:-1], replace(messages[-1], content=spoken)], ask=False)
    text = _joined(asked, renderer.control.hidden(thought), _closing(opening), text[len(base) :])
    if marks is not None:
        end = _end_of_answer(text, len(asked), renderer.habits.end)
        marks = (*(mark for mark in marks if mark[1] <= len(base)), (len(asked), end))
    return text, marks


def _joined(asked: str, thought: str, closing: str, rest: str) -> str:
    """A prompt that opens a thought, the thought, and what the template writes after it."""
    if not closing:
        return asked + rest
    if rest.lstrip().startswith(closing):
        return asked + thought + rest
    gap = "" if rest[:1].isspace() else "\n\n"
    return asked + (thought or "\n") + closing + gap + rest


def _split_thought(content: str, opening: str) -> tuple[str, str]:
    """The thought of an answer, without what the prompt opens it with, and the text after it."""
    closing = _closing(opening)
    thought, found, spoken = content.partition(closing) if closing else ("", "", content)
    if not found:
        return "", content
    thought = thought.lstrip().removeprefix(opening.strip())
    return (thought.removeprefix("\n") if opening.endswith("\n") else thought), spoken.lstrip("\n")


def _closing(opening: str) -> str:
    """What closes the thought that an opening begins; empty where it begins none."""
    found = OPEN_TAG.search(opening)
    return "" if found is None else f"{found[1]}/{found[2]}{found[3]}"


def turns_to_lose(example: Example, renderer: Renderer, max_tokens: int) -> int:
    """How many of the oldest turns must go so that the rest fits; the last exchange stays.

    Raises:
        TemplateError: the template refuses the turns.
    """
    head = _num_system(example.messages)
    # What is left begins with the user.
    starts = [i - head for i, turn in enumerate(example.messages) if turn.role == "user"]

    def fits(start: int) -> bool:
        # Borders, which take a rendering for each answer, move the length by a token or two.
        text = renderer.text(_left(example, start), ask=False)
        return len(tokenize(renderer.tokenizer, text, renderer.control).ids) <= max_tokens

    def fits_exactly(start: int) -> bool:
        return len(write(example, renderer, lost_turns=start).tokens.ids) <= max_tokens

    near = bisect_left(starts, True, key=fits)
    fitting = next((start for start in starts[near:] if fits_exactly(start)), None)
    return fitting if fitting is not None else starts[-1] if starts else 0


def _num_system(messages: Sequence[Message]) -> int:
    return 1 if messages[0].role == "system" else 0


def answer_spans(talk: Conversation, answers: Sequence[int]) -> dict[int, list[Span]]:
    """The characters of each answer with its end token, by the number of its turn.

    Raises:
        ModelError: the template writes earlier turns differently once others follow.
        TemplateError: the template refuses the turns before an answer.
    """
    if talk.marks is None:
        return {number: [_find_span(talk, number)] for number in answers}
    spans = _marked(talk, talk.marks)
    _warn_of_other_prompt(talk)
    return {number: _whole(talk, number, spans[number]) for number in answers}


def _whole(talk: Conversation, number: int, spans: Sequence[Span]) -> list[Span]:
    """An answer's marks, none of the prompt among them, with the end token that follows them.

    An answer that other turns follow, or that calls tools, may end with another token.
    """
    start = talk.starts.get(number, 0)
    kept = [(max(start, first), after) for first, after in spans if after > start]
    end, text = talk.renderer.habits.end, talk.tokens.text
    if not kept or not end or any(end in text[slice(*span)] for span in kept):
        return kept
    first, after = kept[-1]
    found = text.find(end, max(first, after - len(end)))
    if found < 0 or text[after:found].strip():
        if number == len(talk.messages) - 1 and not talk.messages[number].tool_calls:
            _warn_of_unmarked_end(talk.renderer.template, end)
        return kept
    return [*kept[:-1], (first, found + len(end))]


def _marked(talk: Conversation, marks: Sequence[Span]) -> dict[int, list[Span]]:
    """The template's marks by turn: a mark belongs to the answer before whose end it begins."""
    answers = [i for i, turn in enumerate(talk.messages) if turn.role == "assistant"]
    if len(answers) == len(marks):
        return {number: [mark] for number, mark in zip(answers, marks, strict=True)}
    spans: dict[int, list[Span]] = {number: [] for number in answers}
    through = [talk.messages[: number + 1] for number in answers[:-1]]
    ends = [len(talk.renderer.text(turns, ask=False)) for turns in through]
    for mark in marks:
        spans[answers[sum(end <= mark[0] for end in ends)]].append(mark)
    return spans


def _find_span(talk: Conversation, number: int) -> Span:
    """Where an answer stands, by rendering the turns before it and through it."""
    whole, messages, renderer = talk.tokens.text, talk.messages, talk.renderer
    start = _start(talk, number)
    is_last = number == len(messages) - 1
    through = whole if is_last else renderer.text(messages[: number + 1], ask=False)
    end = _end_of_answer(through, start, renderer.habits.end)
    if not whole.startswith(through[:end]):
        said = end - len(renderer.habits.end)
        ends_otherwise = said > start and whole.startswith(through[:said])
        end = said if ends_otherwise else _rewritten_end(talk, number, start)
    if end < 0:
        _require_prefix(through, talk, number)
    return start, end


def _start(talk: Conversation, number: int) -> int:
    """Where an answer begins: after its prompt, or what is left of that once turns follow."""
    asked = talk.asked.get(number)
    if asked is None:
        asked = talk.renderer.text(talk.messages[:number], ask=True)
    if talk.tokens.text.startswith(asked):
        return len(asked)
    base = asked.removesuffix(talk.renderer.habits.opening_before)
    is_last = number == len(talk.messages) - 1
    if is_last or base == asked or not talk.tokens.text.startswith(base):
        _require_prefix(asked, talk, number)
    _warn_of_rewriting(talk.renderer.template)
    return len(base)


def _end_of_answer(through: str, start: int, end_token: str) -> int:
    """After the answer's end token; what the template adds after it (a newline) is not trained."""
    found = through.rfind(end_token, start) if end_token else -1
    return found + len(end_token) if found >= 0 else len(through)


def _rewritten_end(talk: Conversation, number: int, start: int) -> int:
    """The end of an answer that reads otherwise once turns follow; -1 where it is not clear.

    Templates of reasoning models drop the thought of an answer then. It is trained as it stands in
    the whole conversation, up to its end token.
    """
    whole, messages, end_token = talk.tokens.text, talk.messages, talk.renderer.habits.end
    if not end_token or end_token in talk.renderer.control.hidden(messages[number].content):
        return -1
    later = range(number + 1, len(messages))
    following = next((i for i in later if messages[i].role == "assistant"), None)
    is_last = following is None
    limit = len(whole if is_last else talk.renderer.text(messages[:following], ask=True))
    found = whole.find(end_token, start, limit)
    if found < 0:
        return -1
    _warn_of_rewriting(talk.renderer.template)
    return found + len(end_token)


@lru_cache(maxsize=16)
def _warn_of_rewriting(template: str) -> None:
    """Warn once for each template of what it does to earlier answers."""
    logger.warning(
        "This model's chat template writes an answer otherwise once other turns follow it (a "
        "thought is dropped). Answers before the last one are trained as they read then; "
        "data.mask_history: true trains the last one only."
    )


@lru_cache(maxsize=16)
def _warn_of_unmarked_end(template: str, end: str) -> None:
    """Warn once for each template that the end of answers is not taught."""
    logger.warning(
        "This model's chat template marks what is trained ({%% generation %%}), but not %s, which "
        "ends an answer: text that is not marked stands before it. A model that is trained so does "
        "not learn to stop. Move {%% endgeneration %%} behind %s in chat_template.jinja.",
        end,
        end,
    )


def _warn_of_other_prompt(talk: Conversation) -> None:
    """Warn once for each template that its rows do not begin with the prompt."""
    asked = talk.asked.get(len(talk.messages) - 1)
    if asked is not None and not talk.tokens.text.startswith(asked):
        _warn_of_parting(talk.renderer.template)


@lru_cache(maxsize=16)
def _warn_of_parting(template: str) -> None:
    logger.warning(
        "This model's chat template asks for an answer otherwise than it writes the turns before "
        "one that was given. What it marks is trained as it stands, but tests, chat and server ask "
        "with another prompt: set data.enable_thinking as the rows were written, or correct "
        "chat_template.jinja."
    )


def _require_prefix(prefix: str, talk: Conversation, number: int) -> None:
    """Refuse where the whole conversation does not begin with a prefix of its turns.

    Raises:
        ModelError: names the first token that differs.
    """
    if talk.tokens.text.startswith(prefix):
        return
    renderer = talk.renderer
    alone = tokenize(renderer.tokenizer, prefix, renderer.control).ids
    first = first_difference(alone, talk.tokens.ids)
    shown = [_around(renderer.tokenizer, ids, first) for ids in (alone, talk.tokens.ids)]
    raise ModelError(
        f"{talk.place}: this model's chat template renders earlier turns differently once an "
        f"answer follows (first at token {first}: {shown[0]!r} became {shown[1]!r}), so what to "
        f"train is unclear. {_advice(talk, number)}"
    )


def _advice(talk: Conversation, number: int) -> str:
    """What can be done about an answer that does not follow its prompt."""
    ways = ["write conversations with another template (model.template, model.replace_template)"]
    if "enable_thinking" in talk.renderer.template:
        ways.insert(0, "set data.enable_thinking as the rows were written")
    if number < len(talk.messages) - 1:
        ways.insert(0, "train the last answer only (data.mask_history: true)")
        ways.insert(1, "split the conversation into rows with one answer each")
        ways.append("mark the answers in the model's chat_template.jinja ({% generation %})")
    *others, last = ways
    advice = f"{', '.join(others)}, or {last}" if others else last
    return f"{advice[0].upper()}{advice[1:]}."


def _around(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int], place: int) -> str:
    return str(tokenizer.decode(list(ids[max(0, place - CONTEXT) : place + CONTEXT])))
