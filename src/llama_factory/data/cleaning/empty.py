"""Answers that say nothing: empty ones, placeholders, and the prompt once more."""

import re
import unicodedata
from functools import cache

from llama_factory.core.sentences import kind_of_sentence
from llama_factory.core.types import Example, Message
from llama_factory.data.cleaning import CLEANERS, Dropped, RowStep

PLACEHOLDER_TEXT = kind_of_sentence("data.placeholder_text", "the text is a placeholder")
PLACEHOLDER = kind_of_sentence("data.placeholder", "the answer is a placeholder")
EMPTY_TEXT = kind_of_sentence("data.empty_text", "the text is empty")
EMPTY_ANSWER = kind_of_sentence("data.empty_answer", "an answer is empty")
EMPTY_REJECTED = kind_of_sentence("data.empty_rejected", "the rejected answer is empty")
EMPTY_QUESTION = kind_of_sentence("data.empty_question", "the question is empty")
REPEATS_PROMPT = kind_of_sentence("data.repeats_prompt", "the answer repeats the prompt")

_SHORTEST_ECHO = 15
"""In UTF-8 bytes (15 letters, 5 Chinese characters): "Good morning" may answer itself."""
_LONG_PROMPT = 40
"""From this many characters on, a prompt that begins the answer was copied and not continued."""
_LABELS = frozenset(
    ("answer", "theansweris", "response", "output", "a", "答", "答案", "回答", "输出")
)
_NOT_WORDS = re.compile(r"[\W_]+")
_LETTER = re.compile(r"[^\W_]")


@CLEANERS.register("empty")
class Empty(RowStep):
    """Drops rows that would teach the model to say nothing."""

    placeholders: tuple[str, ...] = (
        "n/a", "#n/a", "null", "nan", "todo", "tbd", "undefined", "[object object]",
        "lorem ipsum", "...", "…", "-", "无", "暂无", "略", "待补充", "待定",
    )  # fmt: skip
    """Whole answers that stand for a missing one, in any case and with any full stop after them.
    One that the prompt itself names ("answer N/A if ...") is a real answer and stays."""
    echoes: bool = True
    """Also drop answers that only repeat the prompt. Rows with a system prompt or earlier turns
    stay: those may ask for it ("correct the spelling" and a sentence that is right already)."""

    def clean(self, row: Example) -> Example | Dropped:
        """The row itself, or what its answer is instead of one."""
        reason = _blank(row) or self._hollow(row)
        return Dropped(reason) if reason else row

    def _hollow(self, row: Example) -> str:
        turn = row.messages[-1]
        if turn.tool_calls or row.is_desirable is False:
            return ""  # a bad answer that people disliked is what KTO learns from
        if self._is_placeholder(turn.content, row):
            return PLACEHOLDER_TEXT() if row.is_text else PLACEHOLDER()
        if self.echoes and not row.is_text and len(row.prompt) == 1 and not row.images:
            return _echo(row.prompt[0].content, turn.content)
        return ""

    def _is_placeholder(self, answer: str, row: Example) -> bool:
        known = _spelled(self.placeholders)
        word = answer.strip()
        if len(word) > max(map(len, known), default=0) + 3 or _bare(word) not in known:
            return False
        word = _bare(word)
        return row.is_text or not any(word in turn.content.casefold() for turn in row.prompt)


@cache
def _spelled(placeholders: tuple[str, ...]) -> frozenset[str]:
    return frozenset(map(_bare, placeholders))


def _bare(text: str) -> str:
    text = text.strip().casefold()
    return text.rstrip(".。!！") or text


def _blank(row: Example) -> str:
    if row.is_text:
        return "" if row.answer.strip() else EMPTY_TEXT()
    if any(_is_blank(turn) for turn in row.messages if turn.role == "assistant"):
        return EMPTY_ANSWER()
    if row.rejected and _is_blank(row.rejected):
        return EMPTY_REJECTED()
    if row.prompt and row.prompt[-1].role == "user" and _is_blank(row.prompt[-1]):
        return EMPTY_QUESTION()
    return ""


def _is_blank(turn: Message) -> bool:
    return not turn.tool_calls and not turn.content.strip()


def _echo(prompt: str, answer: str) -> str:
    if not _may_echo(prompt, answer):
        return ""
    asked, answered = _words(prompt), _words(answer)
    if len(asked.encode(errors="replace")) < _SHORTEST_ECHO:
        return ""
    times, rest = divmod(len(answered), len(asked))
    if rest == 0 and times >= 1 and answered == asked * times:
        return REPEATS_PROMPT()
    added = answered.removeprefix(asked)
    if len(prompt) >= _LONG_PROMPT and added != answered and added in _LABELS:
        return REPEATS_PROMPT()
    return ""


def _may_echo(prompt: str, answer: str) -> bool:
    """Whether both begin with the same letter: spares most rows the comparison."""
    first, second = _LETTER.search(prompt), _LETTER.search(answer)
    if not (first and second):
        return False
    return _words(first[0]) == _words(second[0])


def _words(text: str) -> str:
    """Only letters and digits, in one case and width."""
    return _NOT_WORDS.sub("", unicodedata.normalize("NFKC", text).casefold())
