"""What all requests share: their fields, those that are ignored, and those that are refused.

A field that changes the answer and is dropped in silence gives a wrong answer that nobody notices:
what other servers know and this one does not is listed here, and refused.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from llama_factory.core.errors import suggest
from llama_factory.inference.question import Options, RequestError
from llama_factory.inference.request import Constraint
from llama_factory.serving.protocol.constraints import constraint_of
from llama_factory.serving.protocol.values import short

SURROGATE = re.compile("[\ud800-\udfff]")
"""Half of a character that takes two in UTF-16; JSON can spell it alone, no text may hold it."""

MAX_NAME = 100
"""Characters of an unknown name that are sent back."""

MAX_STOPS = 4
MAX_STOP_CHARACTERS = 1000
MAX_CHOICES = 128
MAX_STOP_TOKENS = 128
MAX_BIASES = 1024
MAX_TOP_LOGPROBS = 20
SEEDS = 2**63
"""Seeds are taken modulo this number."""

CONSTRAINTS = (
    "response_format",
    "structured_outputs",
    "guided_json",
    "guided_regex",
    "guided_choice",
    "guided_grammar",
)
"""Fields that say what an answer must match."""

NEUTRAL: dict[str, tuple[Any, ...]] = {
    # OpenAI's
    "functions": ([],),
    "function_call": ("none", "auto"),
    "modalities": (["text"],),
    "audio": (),
    "web_search_options": (),
    "reasoning_effort": (),
    "verbosity": ("medium",),
    "best_of": (1,),
    "echo": (False,),
    "suffix": ("",),
    # of vLLM, SGLang, llama.cpp and LLaMA-Factory
    "do_sample": (True,),
    "typical_p": (1,),
    "top_a": (0,),
    "repeat_penalty": (1,),
    "no_repeat_ngram_size": (0,),
    "length_penalty": (1,),
    "early_stopping": (False,),
    "num_beams": (1,),
    "use_beam_search": (False,),
    "include_stop_str_in_output": (False,),
    "bad_words": ([],),
    "allowed_token_ids": ([],),
    "logits_processors": ([],),
    "skip_special_tokens": (True,),
    "spaces_between_special_tokens": (True,),
    "prompt_logprobs": (0,),
    "truncate_prompt_tokens": (),
    "add_generation_prompt": (True,),
    "continue_final_message": (False,),
    "add_special_tokens": (False,),
    "chat_template": (),
    "documents": ([],),
    "dimensions": (),
    "regex": (),
    "ebnf": (),
    "grammar": ("",),
    "json_schema": (),
}
"""Fields that change the answer and are not supported, with the values that change nothing. Null
changes nothing in any of them."""

IGNORED = frozenset(
    {
        "metadata",
        "store",
        "service_tier",
        "safety_identifier",
        "prompt_cache_key",
        "prompt_cache_retention",
        "prediction",
        "priority",
        "request_id",
        "cache_salt",
        "cache_prompt",
        "keep_alive",
        "guided_decoding_backend",
    }
)
"""Fields that say who asks, or how to compute the same answer faster."""


def require_known(extra: Mapping[str, Any], known: Iterable[str]) -> None:
    """Refuse what would change the answer.

    Args:
        extra: the fields of a request that are no parameters of this server.
        known: the fields that are.

    Raises:
        RequestError: a field is not supported, or nobody knows it.
    """
    for name, value in extra.items():
        if value is None or name in IGNORED:
            continue
        if name not in NEUTRAL:
            nearest = suggest(name, [*known, *NEUTRAL, *IGNORED])
            raise RequestError(
                f"{_cut(name)}: this server does not know the field.{nearest} Leave it out.",
                param=_cut(name),
            )
        if not any(_is_same(value, neutral) for neutral in NEUTRAL[name]):
            raise RequestError(
                f"{name}: {short(value)} is not supported by this server. Leave {name} out.",
                param=name,
            )


def _cut(name: str) -> str:
    return name if len(name) <= MAX_NAME else f"{name[:MAX_NAME]}..."


def _is_same(value: Any, neutral: Any) -> bool:
    """Equal, where true is not 1 nor 0 false."""
    return value == neutral and isinstance(value, bool) == isinstance(neutral, bool)


def _listed(stop: Any) -> Any:
    return [stop] if isinstance(stop, str) else stop


class RequestPart(BaseModel):
    """An object of a request; fields that it does not have are looked at by `require_known`."""

    model_config = ConfigDict(strict=True, extra="allow", frozen=True)


class WholeCharacters(BaseModel):
    """A body whose texts hold no half of a character, wherever they stand in it."""

    @model_validator(mode="before")
    @classmethod
    def _holds_whole_characters(cls, body: Any) -> Any:
        if place := half_character(body):
            raise PydanticCustomError(
                "half_character",
                "{place}: holds half of a character; an emoji was cut in two. Remove it",
                {"place": place},
            )
        return body


class StreamOptions(RequestPart):
    """What a stream carries besides text."""

    include_usage: bool | None = None

    @model_validator(mode="after")
    def _knows_its_fields(self) -> "StreamOptions":
        for name, value in (self.model_extra or {}).items():
            if name not in ("include_obfuscation", "continuous_usage_stats") or value:
                raise ValueError(f"{name} is not supported by this server. Leave it out")
        return self


Stop = Annotated[str, Field(min_length=1, max_length=MAX_STOP_CHARACTERS)]
Token = Annotated[int, Field(ge=0)]
ModelName = Annotated[str, Field(max_length=256)]
MANY = 2**31 - 1
"""Numbers above this mean it: engines hold them in 32 bits."""


class AnswerRequest(WholeCharacters, RequestPart):
    """What requests for answers share, whatever they ask."""

    model: ModelName
    max_tokens: int | None = Field(None, ge=1)
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, ge=0, le=1)
    n: int | None = Field(None, ge=1, le=MAX_CHOICES)
    stop: Annotated[
        Annotated[list[Stop], Field(max_length=MAX_STOPS)] | None, BeforeValidator(_listed)
    ] = None
    seed: int | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    logit_bias: Annotated[dict[str, Any], Field(max_length=MAX_BIASES)] | None = None
    user: str | None = None

    top_k: int | None = Field(None, ge=-1)
    min_p: float | None = Field(None, ge=0, le=1)
    repetition_penalty: float | None = Field(None, gt=0, le=10)
    min_tokens: int | None = Field(None, ge=0)
    ignore_eos: bool | None = None
    stop_token_ids: Annotated[list[Token], Field(max_length=MAX_STOP_TOKENS)] | None = None

    response_format: Any = None
    structured_outputs: Any = None
    guided_json: Any = None
    guided_regex: Any = None
    guided_choice: Any = None
    guided_grammar: Any = None

    @property
    def num_choices(self) -> int:
        """Answers to each prompt."""
        return self.n or 1

    @property
    def wants_usage(self) -> bool:
        """Whether a stream ends with the token counts."""
        return bool(self.stream_options and self.stream_options.include_usage)

    def require_known(self) -> None:
        """Refuse fields that would change the answer.

        Raises:
            RequestError: one is not supported, or nobody knows it.
        """
        require_known(self.model_extra or {}, type(self).model_fields)
        if self.stream_options and not self.stream:
            raise RequestError(
                "stream_options: they are for streams. Set stream, or leave them out.",
                param="stream_options",
            )

    def constraint(self) -> Constraint | None:
        """What the answers must match.

        Raises:
            RequestError: it cannot be read.
        """
        return constraint_of({name: getattr(self, name) for name in CONSTRAINTS})

    def options_of(
        self,
        max_tokens: int,
        *,
        num_logprobs: int | None = None,
        constraint: Constraint | None = None,
    ) -> tuple[Options, ...]:
        """How to answer, once for each of the `n` answers: each draws from a seed of its own.

        Args:
            max_tokens: longest answer.
            num_logprobs: how many of the likeliest tokens are reported beside each token.
            constraint: what the answers must match; None for what the request says.

        Raises:
            RequestError: a value is out of its range, or a constraint cannot be read.
        """
        constraint = constraint or self.constraint()
        seeds = [
            None if self.seed is None else (self.seed + n) % SEEDS for n in range(self.num_choices)
        ]
        return tuple(
            Options(
                max_tokens=min(MANY, max_tokens),
                temperature=1.0 if self.temperature is None else self.temperature,
                top_p=1.0 if self.top_p is None else self.top_p,
                stop=tuple(self.stop or ()),
                seed=seed,
                top_k=min(MANY, max(0, self.top_k or 0)),
                min_p=self.min_p or 0.0,
                repetition_penalty=self.repetition_penalty or 1.0,
                presence_penalty=self.presence_penalty or 0.0,
                frequency_penalty=self.frequency_penalty or 0.0,
                logit_bias=_biases(self.logit_bias or {}),
                min_tokens=min(self.min_tokens or 0, max_tokens, MANY),
                stop_token_ids=tuple(self.stop_token_ids or ()),
                ignore_eos=bool(self.ignore_eos),
                constraint=constraint,
                num_logprobs=num_logprobs,
            )
            for seed in seeds
        )


MAX_BIAS = 100


def _biases(given: Mapping[str, Any]) -> dict[int, float]:
    """By token id what is added to its logit; JSON writes the ids as texts.

    Raises:
        RequestError: a name is no token id, or a value no bias.
    """
    found = {}
    for name, value in given.items():
        place = f"logit_bias.{name}"
        if not (name.isascii() and name.isdigit() and len(name) < len(str(SEEDS))):
            raise RequestError(f"{place}: must be named by a token id.", param="logit_bias")
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not is_number or not -MAX_BIAS <= value <= MAX_BIAS:
            raise RequestError(
                f"{place}: must be a number from -100 to 100; it is {short(value)}.",
                param="logit_bias",
            )
        found[int(name)] = float(value)
    return found


def half_character(body: Any) -> str:
    """Where a value holds a surrogate, which no text may; empty where none does."""
    waiting: list[tuple[str, Any]] = [("", body)]
    while waiting:  # a loop: what is nested deeply must not exhaust the stack
        place, value = waiting.pop()
        if isinstance(value, str) and not value.isascii() and SURROGATE.search(value):
            return place or "the body"
        if isinstance(value, dict):
            waiting += [(f"a name in {place or 'the body'}", name) for name in value]
            waiting += [(_inside(place, name), each) for name, each in value.items()]
        elif isinstance(value, list):
            waiting += [(_inside(place, number), each) for number, each in enumerate(value)]
    return ""


def _inside(place: str, name: object) -> str:
    return f"{place}.{name}" if place else str(name)
