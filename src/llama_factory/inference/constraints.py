"""What an answer must match, as the tokens that may come next; knows no model.

The work is llguidance's (https://github.com/guidance-ai/llguidance).
"""

import json
from collections.abc import Set
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from llama_factory.core.errors import ServingError
from llama_factory.inference.question import RequestError
from llama_factory.inference.request import Constraint

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer

MAX_CHARACTERS = 100_000
"""Longest schema, expression, grammar or list of choices."""


class ConstraintError(ServingError):
    """A constraint that costs too much to follow further; its answer has failed."""


class Matcher:
    """Where one answer is within what it must match."""

    def __init__(self, inner: "LLMatcher") -> None:
        self._inner = inner

    def allowed(self, end_tokens: Set[int]) -> Tensor:
        """[vocab] whether each token may come next; end tokens where the answer may end.

        Raises:
            ConstraintError: it costs too much to know.
        """
        bits = np.frombuffer(self._inner.compute_bitmask(), dtype=np.uint8)
        self._check()
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
        self._inner.consume_token(token)
        self._check()

    @property
    def is_complete(self) -> bool:
        """Whether the answer may end here."""
        return self._inner.is_accepting()

    @property
    def is_finished(self) -> bool:
        """Whether nothing more may come."""
        return self._inner.is_stopped()

    def _check(self) -> None:
        if self._inner.is_error():
            reason = self._inner.get_error().partition("\n")[0]
            raise ConstraintError(f"The answer's constraint cannot be followed further: {reason}")


class Compiler:
    """Compiles constraints for the answers of one tokenizer."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, vocab_size: int | None = None) -> None:
        """Read a tokenizer's vocabulary; takes about a second for 50,000 tokens.

        Args:
            tokenizer: a fast tokenizer of Transformers.
            vocab_size: columns of the model's logits, where there are more than tokens.
        """
        from llguidance.hf import from_tokenizer

        self._tokenizer: LLTokenizer = from_tokenizer(tokenizer, n_vocab=vocab_size)

    def matcher(self, constraint: Constraint, *, param: str = "response_format") -> Matcher:
        """A constraint at its beginning.

        Args:
            constraint: what the answer must match.
            param: the field of the request that holds it.

        Raises:
            RequestError: it is wrong, or would cost too much.
        """
        from llguidance import LLMatcher, LLParserLimits

        if len(constraint.text) > MAX_CHARACTERS:
            raise RequestError(
                f"{param}: has {len(constraint.text)} characters; at most {MAX_CHARACTERS} can be "
                "followed.",
                param=param,
            )
        try:
            grammar = _grammar(constraint)
        except ValueError as error:
            raise RequestError(f"{param}: {error}", param=param) from error
        limits = LLParserLimits(verbose_errors=False)
        inner = LLMatcher(self._tokenizer, grammar, log_level=0, limits=limits)
        if inner.is_error():
            raise RequestError(f"{param}: {inner.get_error().strip()}", param=param)
        return Matcher(inner)


def _grammar(constraint: Constraint) -> str:
    """A constraint as llguidance reads it."""
    from llguidance import LLMatcher

    match constraint.kind:
        case "json":
            return LLMatcher.grammar_from_json_schema('{"type": "object"}')
        case "json_schema":
            return LLMatcher.grammar_from_json_schema(constraint.text)
        case "regex":
            return LLMatcher.grammar_from_regex(constraint.text)
        case "choice":
            return LLMatcher.grammar_from_lark(_choice(constraint.text))
        case "grammar":
            return LLMatcher.grammar_from_lark(constraint.text)


def _choice(text: str) -> str:
    """A list of texts as a Lark grammar."""
    choices = json.loads(text)
    are_texts = isinstance(choices, list) and all(isinstance(each, str) for each in choices)
    if not are_texts or not choices:
        raise ValueError("choices must be a list of one or more texts.")
    return "start: " + " | ".join(json.dumps(each, ensure_ascii=False) for each in choices)
