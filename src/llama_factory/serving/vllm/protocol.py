"""Options and answers in the words of vLLM's `/v1/completions`. Pure: no connection, no model."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

from llama_factory.inference.question import Options, RequestError, TokenLogprob
from llama_factory.inference.request import Constraint
from llama_factory.serving.errors import EngineDownError

MAX_PENALTY, MAX_BIAS = 2.0, 100.0
"""What vLLM takes on both sides of 0; it cuts larger biases without a word."""
ONE_PROMPT_TOKEN = {"max_tokens": 1, "temperature": 0, "prompt_logprobs": 0, "stream": False}


def completion(
    model: str, ids: Sequence[int], options: Options, *, max_tokens: int, ends: frozenset[int]
) -> dict[str, Any]:
    """The body of a streamed completion.

    Every value is given, also the usual ones: else those that the model's own files prefer hold.

    Args:
        model: vLLM's name of the version.
        ids: of the prompt.
        options: how to answer.
        max_tokens: what room there is.
        ends: tokens that end the version's answers.

    Raises:
        RequestError: vLLM would answer in another way than is asked for.
    """
    _require_range("presence_penalty", options.presence_penalty, MAX_PENALTY)
    _require_range("frequency_penalty", options.frequency_penalty, MAX_PENALTY)
    for value in options.logit_bias.values():
        _require_range("logit_bias", value, MAX_BIAS)
    own_ends = frozenset() if options.ignore_eos else ends
    body: dict[str, Any] = {
        "model": model,
        "prompt": list(ids),
        "max_tokens": max_tokens,
        **_sampling(options),
        "repetition_penalty": options.repetition_penalty,
        "presence_penalty": options.presence_penalty,
        "frequency_penalty": options.frequency_penalty,
        "logit_bias": {str(token): value for token, value in options.logit_bias.items()} or None,
        "stop": list(options.stop),
        "stop_token_ids": sorted({*own_ends, *options.stop_token_ids}),
        "ignore_eos": options.ignore_eos,
        "min_tokens": min(options.min_tokens, max_tokens),
        "skip_special_tokens": True,
        "include_stop_str_in_output": False,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    if options.num_logprobs is not None:
        body |= {"logprobs": options.num_logprobs, "return_tokens_as_token_ids": True}
    if options.constraint is not None:
        body["structured_outputs"] = _constraint(options.constraint)
    return body


def loss_request(model: str, prompt: Sequence[int], answer: Sequence[int]) -> dict[str, Any]:
    """The body that asks how likely an answer is."""
    return {"model": model, "prompt": [*prompt, *answer], **ONE_PROMPT_TOKEN}


def loss_of(body: Any, answer: Sequence[int]) -> float:
    """The mean negative log-likelihood of an answer, in nats, from the response.

    Raises:
        EngineDownError: the response lacks it.
    """
    try:
        listed = body["choices"][0]["prompt_logprobs"][-len(answer) :]
        values = [
            float(each[str(token)]["logprob"]) for each, token in zip(listed, answer, strict=True)
        ]
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise EngineDownError(
            f"the engine gives no log-probabilities of prompts ({error!r}), so nothing proves "
            "which version answers."
        ) from error
    return -sum(values) / len(values)


def logprobs_of(
    choice: Mapping[str, Any], make: Callable[[int, float], TokenLogprob], most: int
) -> tuple[tuple[int, TokenLogprob], ...]:
    """The tokens of one event with their log-probabilities; none where none were asked for.

    Args:
        choice: of the event.
        make: names a token.
        most: how many of the likeliest are reported.
    """
    given = choice.get("logprobs") or {}
    tokens, values = given.get("tokens") or (), given.get("token_logprobs") or ()
    tops = given.get("top_logprobs") or [None] * len(tokens)
    return tuple(
        (_id(token), replace(make(_id(token), value), alternatives=_likeliest(top, make, most)))
        for token, value, top in zip(tokens, values, tops, strict=True)
    )


def _likeliest(
    top: Mapping[str, float] | None, make: Callable[[int, float], TokenLogprob], most: int
) -> tuple[TokenLogprob, ...]:
    ranked = sorted((top or {}).items(), key=lambda each: -each[1])
    return tuple(make(_id(token), value) for token, value in ranked[:most])


def finish_reason_of(choice: Mapping[str, Any]) -> Literal["stop", "length"] | None:
    """Why the answer ended; None while it goes on.

    Raises:
        EngineDownError: vLLM gave it up.
    """
    reason = choice.get("finish_reason")
    if reason in ("stop", "length", None):
        return reason
    raise EngineDownError(f"the engine gave up an answer ({reason}). Ask again.")


def _sampling(options: Options) -> dict[str, Any]:
    """Temperature 0 is vLLM's greedy; it refuses a top_p of 0, which means the same."""
    if options.sampling.is_greedy:
        return {"temperature": 0.0, "top_p": 1.0, "top_k": 0, "min_p": 0.0, "seed": None}
    return {
        "temperature": options.temperature,
        "top_p": options.top_p,
        "top_k": options.top_k,
        "min_p": options.min_p,
        "seed": None if options.seed is None else options.seed % 2**63,
    }


def _constraint(constraint: Constraint) -> dict[str, Any]:
    """In vLLM's words."""
    if constraint.kind == "json":
        return {"json_object": True}
    if constraint.kind == "json_schema":
        return {"json": json.loads(constraint.text)}
    if constraint.kind == "choice":
        return {"choice": json.loads(constraint.text)}
    return {constraint.kind: constraint.text}


def _require_range(name: str, value: float, most: float) -> None:
    if not -most <= value <= most:
        raise RequestError(
            f"{name}: the engine (vLLM) takes {-most:g} to {most:g}; it is {value:g}.", param=name
        )


def _id(token: str) -> int:
    """12 for `token_id:12`."""
    return int(token.removeprefix("token_id:"))
