"""Fields of a chat request that other servers know: which are refused here, which change nothing.

A field that changes the answer and is dropped in silence gives a wrong answer that nobody notices.
"""

from collections.abc import Mapping
from typing import Any

from llama_factory.core.errors import suggest
from llama_factory.inference.refusals import RequestError

NEUTRAL: dict[str, tuple[Any, ...]] = {
    # OpenAI's
    "n": (1,),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "logit_bias": ({},),
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
    "audio": (),
    "web_search_options": (),
    "reasoning_effort": (),
    "verbosity": ("medium",),
    "parallel_tool_calls": (True,),
    # of vLLM, SGLang, llama.cpp and LLaMA-Factory
    "do_sample": (True,),
    "top_k": (0, -1),
    "min_p": (0,),
    "typical_p": (1,),
    "top_a": (0,),
    "repetition_penalty": (1,),
    "repeat_penalty": (1,),
    "no_repeat_ngram_size": (0,),
    "length_penalty": (1,),
    "early_stopping": (False,),
    "best_of": (1,),
    "num_beams": (1,),
    "use_beam_search": (False,),
    "min_tokens": (0,),
    "ignore_eos": (False,),
    "stop_token_ids": ([],),
    "include_stop_str_in_output": (False,),
    "bad_words": ([],),
    "allowed_token_ids": ([],),
    "logits_processors": ([],),
    "skip_special_tokens": (True,),
    "spaces_between_special_tokens": (True,),
    "prompt_logprobs": (0,),
    "truncate_prompt_tokens": (),
    "echo": (False,),
    "add_generation_prompt": (True,),
    "continue_final_message": (False,),
    "add_special_tokens": (False,),
    "chat_template": (),
    "documents": ([],),
    "structured_outputs": (),
    "guided_json": (),
    "guided_regex": (),
    "guided_choice": (),
    "guided_grammar": (),
    "regex": (),
    "ebnf": (),
    "grammar": ("",),
    "json_schema": (),
}
"""Fields that change the answer and are not supported, with the values that change nothing. Null
changes nothing in any of them."""

IGNORED = frozenset(
    {
        "user",
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

IGNORED_IN_TURNS = frozenset(
    {"name", "refusal", "annotations", "cache_control", "id", "weight", "provider_specific_fields"}
)
"""Fields of a turn that no chat template is given. `name` of a tool's turn is checked."""


def require_known(extra: Mapping[str, Any], known: set[str]) -> None:
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
                f"{name}: this server does not know the field.{nearest} Leave it out.", param=name
            )
        if not any(_is_same(value, neutral) for neutral in NEUTRAL[name]):
            raise RequestError(
                f"{name}: {_short(value)} is not supported by this server. Leave {name} out.",
                param=name,
            )


def _is_same(value: Any, neutral: Any) -> bool:
    """Equal, where true is not 1 nor 0 false."""
    return value == neutral and isinstance(value, bool) == isinstance(neutral, bool)


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
