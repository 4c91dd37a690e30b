"""Rows that are too short to teach anything, or so long that something else must be wrong."""

from pydantic import Field

from llama_factory.core.sentences import kind_of_sentence
from llama_factory.core.types import Example, Message
from llama_factory.data.cleaning import CLEANERS, Dropped, RowStep

TEXT, PROMPT = kind_of_sentence("data.text", "text"), kind_of_sentence("data.prompt", "prompt")
ANSWER = kind_of_sentence("data.answer", "answer")
REJECTED_ANSWER = kind_of_sentence("data.rejected_answer", "rejected answer")
SHORTER = kind_of_sentence("data.shorter", "{what} shorter than {least} characters")
LONGER = kind_of_sentence("data.longer", "{what} longer than {most} characters")


@CLEANERS.register("length")
class LengthBounds(RowStep):
    """Bounds in characters; a Chinese character holds about as much as four English letters."""

    min_prompt: int = Field(1, ge=0)
    """Shortest prompt, all turns before the answer together."""
    max_prompt: int = Field(100_000, ge=1)
    """Longest prompt. Lower drops pasted files; `data.max_tokens` only cuts them."""
    min_answer: int = Field(1, ge=0)
    """Shortest answer. Higher also drops right but short ones, such as the labels of a classifier.
    An answer that calls a tool may be empty."""
    max_answer: int = Field(100_000, ge=1)
    """Longest answer, also of the worse one of a preference pair."""
    min_text: int = Field(1, ge=0)
    """Shortest plain text (pretraining)."""
    max_text: int = Field(10_000_000, ge=1)
    """Longest plain text; whole books are fine, they are cut into pieces later."""

    def clean(self, row: Example) -> Example | Dropped:
        """The row itself, or which bound it breaks."""
        reason = self._text_problem(row) if row.is_text else self._turns_problem(row)
        return Dropped(reason) if reason else row

    def _text_problem(self, row: Example) -> str:
        return _problem(TEXT(), len(row.answer), self.min_text, self.max_text)

    def _turns_problem(self, row: Example) -> str:
        prompt = sum(map(_length, row.prompt))
        reason = _problem(PROMPT(), prompt, self.min_prompt, self.max_prompt)
        reason = reason or self._answer_problem(ANSWER(), row.messages[-1])
        if row.rejected and not reason:
            reason = self._answer_problem(REJECTED_ANSWER(), row.rejected)
        return reason

    def _answer_problem(self, name: str, turn: Message) -> str:
        least = 0 if turn.tool_calls else self.min_answer
        return _problem(name, _length(turn), least, self.max_answer)


def _length(turn: Message) -> int:
    return len(turn.content) + sum(len(call.arguments) for call in turn.tool_calls)


def _problem(name: str, length: int, least: int, most: int) -> str:
    """What many rows share, so without the length itself."""
    if length < least:
        return SHORTER(what=name, least=least)
    return LONGER(what=name, most=most) if length > most else ""
