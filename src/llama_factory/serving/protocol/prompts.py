"""Prompts and inputs without turns: texts or token ids, one or several."""

from typing import Any

from llama_factory.inference.question import RequestError, TextPrompt
from llama_factory.serving.protocol.values import short

MAX_PROMPTS = 128
MAX_TOKEN_ID = 2**31


def text_prompts(given: Any, place: str) -> tuple[TextPrompt, ...]:
    """A text, several, token ids, or several lists of them.

    Raises:
        RequestError: it is none of these, empty, or too many.
    """
    if isinstance(given, str):
        return (_prompt(given, place),)
    if not isinstance(given, list) or not given:
        raise _wrong(place, given)
    if all(_is_token(each) for each in given):
        return (TextPrompt(tuple(given)),)
    if len(given) > MAX_PROMPTS:
        raise RequestError(
            f"{place}: holds {len(given)} prompts and {MAX_PROMPTS} may be asked at once.",
            param=place,
        )
    return tuple(_prompt(each, f"{place}.{number}") for number, each in enumerate(given))


def token_ids(given: Any, place: str) -> tuple[int, ...]:
    """A list of token ids.

    Raises:
        RequestError: it is none.
    """
    if not isinstance(given, list) or not all(_is_token(each) for each in given):
        raise RequestError(f"{place}: must be a list of token ids.", param=place)
    return tuple(given)


def _prompt(given: Any, place: str) -> TextPrompt:
    if isinstance(given, str) and given:
        return TextPrompt(given)
    if isinstance(given, list) and given and all(_is_token(each) for each in given):
        return TextPrompt(tuple(given))
    raise _wrong(place, given)


def _is_token(value: Any) -> bool:
    is_whole = isinstance(value, int) and not isinstance(value, bool)
    return is_whole and 0 <= value < MAX_TOKEN_ID


def _wrong(place: str, given: Any) -> RequestError:
    return RequestError(
        f"{place}: must be a text that is not empty, a list of token ids, or a list of either; it "
        f"is {short(given)}.",
        param=place,
    )
