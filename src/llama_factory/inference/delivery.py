"""Tokens of one answer -> pieces of text that may be sent, log-probabilities, the whole answer."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Any

from transformers.convert_slow_tokenizer import bytes_to_unicode

from llama_factory.inference.question import Answer, AnswerPiece, Options, TokenLogprob
from llama_factory.inference.request import Ended, Token
from llama_factory.inference.streamed_text import UNFINISHED, TextPieces
from llama_factory.model.chat.channels import FinalChannel, Marks, answer_text, channel_marks

Deliver = Callable[[AnswerPiece | Answer | Exception], None]
"""Takes what comes of an answer: pieces, then the whole answer or why there is none."""


BYTE_TOKEN = re.compile("<0x([0-9A-F]{2})>")
"""How SentencePiece spells a single byte."""
SPELT_BYTES = {character: byte for byte, character in bytes_to_unicode().items()}
"""How byte-level tokenizers spell bytes, each as a character that can be seen."""


class TokenTexts:
    """What single tokens say, and in which bytes."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._spelt = lru_cache(8192)(self._spell)

    def decode(self, ids: Sequence[int]) -> str:
        """Text without special tokens that are no text."""
        return answer_text(ids, self._tokenizer)

    @cached_property
    def _channels(self) -> Marks:
        return channel_marks(self._tokenizer)

    def final_channel(self) -> FinalChannel:
        """Tells of the tokens of an answer which ones are its text."""
        return FinalChannel(self._channels, self.decode)

    def logprob(self, token: int, logprob: float, alternatives: Any = ()) -> TokenLogprob:
        """The log-probability of a token as clients read it."""
        text, known = self._spelt(token)
        others = tuple(self.logprob(other, value) for other, value in alternatives)
        return TokenLogprob(text, logprob, known, others)

    def _spell(self, token: int) -> tuple[str, tuple[int, ...] | None]:
        text = str(self._tokenizer.decode([token], clean_up_tokenization_spaces=False))
        return text, self._bytes(token) if UNFINISHED in text else tuple(text.encode())

    def _bytes(self, token: int) -> tuple[int, ...] | None:
        """Of a part of a character, where the tokenizer spells bytes; None where it does not."""
        spelt = str(self._tokenizer.convert_ids_to_tokens(token))
        if single := BYTE_TOKEN.fullmatch(spelt):
            return (int(single[1], 16),)
        backend = getattr(self._tokenizer, "backend_tokenizer", None)
        is_of_bytes = "ByteLevel" in repr(getattr(backend, "decoder", None))
        known = [SPELT_BYTES.get(character) for character in spelt] if is_of_bytes else [None]
        return None if None in known else tuple(byte for byte in known if byte is not None)


@dataclass
class Delivery:
    """One answer on its way to whoever asked.

    Attributes:
        num_prompt: tokens of the prompt.
        end_tokens: which end the answer and are no text.
        is_over: whether it was delivered, whatever the engine still computes.
    """

    texts: TokenTexts
    options: Options
    num_prompt: int
    end_tokens: frozenset[int]
    deliver: Deliver
    is_over: bool = False
    _num_tokens: int = 0
    _due: list[TokenLogprob] = field(default_factory=list)
    _logprobs: list[TokenLogprob] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._final = self.texts.final_channel()
        self._pieces = TextPieces(self.texts.decode, self.options.stop, self._hand_on)

    def take(self, event: Token) -> bool:
        """Take the next token; whether more is wanted."""
        if self.is_over:
            return False
        self._num_tokens += 1
        if event.id in self.end_tokens:
            return True
        if event.logprob is not None:
            self._due.append(self.texts.logprob(event.id, event.logprob, event.alternatives))
        for token in self._final.push(event.id):
            self._pieces.push(token)
        if self._pieces.is_stopped:
            self._finish("stop", event.num_reused)
        elif self._due and not self._pieces.is_holding:
            self._hand_on("")
        return not self.is_over

    def end(self, event: Ended) -> None:
        """The engine has ended the answer."""
        if self.is_over:
            return
        if event.reason == "failed":
            assert event.error is not None
            self.fail(event.error)
        else:
            self._finish(event.reason, event.num_reused)

    def fail(self, error: Exception) -> None:
        """There will be no answer."""
        if not self.is_over:
            self.is_over = True
            self.deliver(error)

    def _finish(self, reason: str, num_reused: int) -> None:
        self._pieces.finish()
        if self._due:
            self._hand_on("")
        self.is_over = True
        ended = "length" if reason in ("length", "deadline") else "stop"
        text, logprobs = self._pieces.text, tuple(self._logprobs)
        counts = (self.num_prompt, self._num_tokens)
        self.deliver(Answer(text, *counts, ended, num_reused, logprobs))  # type: ignore[arg-type]

    def _hand_on(self, text: str) -> None:
        due, self._due = tuple(self._due), []
        self._logprobs += due
        self.deliver(AnswerPiece(text, due))
