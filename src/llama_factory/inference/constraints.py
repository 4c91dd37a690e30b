"""What an answer must match, as the tokens that may come next; knows no model.

The work is llguidance's (https://github.com/guidance-ai/llguidance).
"""

import functools
import json
import time
from collections.abc import Set
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from llama_factory.core.errors import ServingError
from llama_factory.inference.question import RequestError
from llama_factory.inference.repetitions import (
    patterns_of,
    refuse_large_expressions,
    refuse_large_grammar,
)
from llama_factory.inference.request import Constraint

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLParserLimits, LLTokenizer

MAX_CHARACTERS = 100_000
"""Longest schema, expression, grammar or list of choices."""
MAX_STATES = 20_000
"""States of the lexer that one constraint may come to, of 1 to 2 KB each."""
SPACE = r"[ \n\r\t]{1,64}"
"""What may stand between the parts of JSON: models that are unsure go on with spaces for ever."""
KEPT = 32
"""Compiled constraints that are kept, as many requests ask for the same."""
FIRST_SECONDS, TOKEN_SECONDS = 1.0, 0.02
"""Processor time that following an answer may take: so much, and so much more for each token. An
ordinary schema takes a fiftieth of it."""


class ConstraintError(ServingError):
    """A constraint that costs too much to follow further; its answer has failed."""


class Matcher:
    """Where one answer is within what it must match."""

    def __init__(self, inner: "LLMatcher") -> None:
        self._inner = inner
        self._seconds_left = FIRST_SECONDS

    def allowed(self, end_tokens: Set[int]) -> Tensor:
        """[vocab] whether each token may come next; end tokens where the answer may end.

        Raises:
            ConstraintError: it costs too much to know.
        """
        start = time.thread_time()
        bits = np.frombuffer(self._inner.compute_bitmask(), dtype=np.uint8)
        self._check(start)
        allowed = torch.from_numpy(np.unpackbits(bits, bitorder="little")).bool()
        may_end = self._inner.is_accepting()
        for token in end_tokens:
            if token < len(allowed):
                allowed[token] = may_end
        return allowed

    def accept(self, token: int) -> None:
        """Go on by a token that was allowed.

        Raises:
            ConstraintError: it was not, or it costs too much to go on.
        """
        start = time.thread_time()
        self._seconds_left += TOKEN_SECONDS
        self._inner.consume_token(token)
        self._check(start)

    @property
    def is_finished(self) -> bool:
        """Whether nothing more may come."""
        return self._inner.is_stopped()

    def _check(self, start: float) -> None:
        self._seconds_left -= time.thread_time() - start
        if self._inner.is_error() or self._seconds_left < 0:
            reason = self._inner.get_error().partition("\n")[0] or "it takes too long"
            raise ConstraintError(
                f"The answer cannot be held to its schema or grammar any further: {reason}. "
                "A simpler one will do better."
            )


class Compiler:
    """Compiles constraints for the answers of one tokenizer; may be called from any thread."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, vocab_size: int | None = None) -> None:
        """Read a tokenizer's vocabulary; takes about a second for 50,000 tokens.

        Args:
            tokenizer: a fast tokenizer of Transformers.
            vocab_size: columns of the model's logits, where there are more than tokens.
        """
        from llguidance.hf import from_tokenizer

        self._tokenizer: LLTokenizer = from_tokenizer(tokenizer, n_vocab=vocab_size)
        self._compiled = functools.lru_cache(maxsize=KEPT)(self._compile)

    def matcher(self, constraint: Constraint, *, param: str = "response_format") -> Matcher:
        """A constraint at its beginning.

        Costly ones take up to a second or two, so call it outside of the thread that answers.

        Args:
            constraint: what the answer must match.
            param: the field of the request that holds it.

        Raises:
            RequestError: it is wrong, or would cost too much.
        """
        if len(constraint.text) > MAX_CHARACTERS:
            raise RequestError(
                f"{param}: has {len(constraint.text)} characters; at most {MAX_CHARACTERS} can be "
                "followed.",
                param=param,
            )
        try:
            return Matcher(self._compiled(constraint).deep_copy())
        except (ValueError, RecursionError) as error:
            raise RequestError(f"{param}: {error}", param=param) from error

    def _compile(self, constraint: Constraint) -> "LLMatcher":
        """A constraint at its beginning, its first tokens known.

        Raises:
            ValueError: it is wrong, or would cost too much.
        """
        from llguidance import LLMatcher

        inner = LLMatcher(self._tokenizer, _grammar(constraint), log_level=0, limits=_limits())
        if not inner.is_error():
            inner.compute_bitmask()
        if inner.is_error():
            raise ValueError(inner.get_error().replace("\n<non-verbose/>", "").strip())
        return inner


def _limits() -> "LLParserLimits":
    from llguidance import LLParserLimits

    return LLParserLimits(
        max_lexer_states=MAX_STATES, precompute_large_lexemes=False, verbose_errors=False
    )


def _grammar(constraint: Constraint) -> str:
    """A constraint as llguidance reads it."""
    from llguidance import LLMatcher

    text = constraint.text
    match constraint.kind:
        case "json":
            return _of_schema('{"type": "object"}')
        case "json_schema":
            refuse_large_expressions([*patterns_of(json.loads(text))])
            return _of_schema(text)
        case "regex":
            refuse_large_expressions([text])
            return LLMatcher.grammar_from_regex(text)
        case "choice":
            return LLMatcher.grammar_from_lark(_choice(text))
        case "grammar":
            if "%json" in text:
                raise ValueError("%json within a grammar is not read; use a JSON schema alone.")
            refuse_large_grammar(text)
            return LLMatcher.grammar_from_lark(text)


def _of_schema(schema: str) -> str:
    from llguidance import LLMatcher

    return LLMatcher.grammar_from_json_schema(schema, overrides={"whitespace_pattern": SPACE})


def _choice(text: str) -> str:
    """A list of texts as a Lark grammar."""
    choices = json.loads(text)
    are_texts = isinstance(choices, list) and all(isinstance(each, str) for each in choices)
    if not are_texts or not choices:
        raise ValueError("choices must be a list of one or more texts.")
    return "start: " + " | ".join(json.dumps(each, ensure_ascii=False) for each in choices)
