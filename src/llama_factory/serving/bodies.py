"""Bounds on a body's JSON, checked on its bytes before anything is made of them.

Parsed values take up to fifty times the memory of their text, and whatever walks through them may
recurse; so depth and number are known first. The check takes time in proportion to the bytes.
"""

import re

import numpy as np

from llama_factory.inference.question import RequestError

MAX_DEPTH = 64
"""Lists and objects in each other. The schema of a tool with ten levels takes about 30."""

MAX_VALUES = 200_000
"""Numbers, texts, lists and objects in one body: a prompt of 128,000 token ids is one."""

MAX_DIGITS = 400
"""Of one number. The longest that means anything, the largest float, has 309."""

STRING = re.compile(rb'"(?:[^"\\]++|\\.)*+"?', re.DOTALL)
"""A text of JSON. One without an end goes to the body's end: no second look from its middle."""

NOT_JSON = re.compile(rb"NaN|Infinity")
LONG_NUMBER = re.compile(rb"[0-9]{%d}" % (MAX_DIGITS + 1))
STEPS = np.zeros(256, np.int32)
"""How each byte outside of texts changes the depth."""
STEPS[list(b"[{")] = 1
STEPS[list(b"]}")] = -1


class BodyNotPlainError(RequestError):
    """The body's JSON is deeper or larger than this server reads, or no JSON."""

    code = "invalid_json"


def require_plain(body: bytes) -> None:
    """Refuse JSON that would cost more than its size, and numbers that JSON does not have.

    Raises:
        BodyNotPlainError: it is nested too deeply, has too many values, or holds NaN, Infinity or a
            number of hundreds of digits.
    """
    skeleton = STRING.sub(b"", body)
    if seen := NOT_JSON.search(skeleton):
        name = seen.group().decode()
        raise BodyNotPlainError(f"the body holds {name}, which JSON does not have. Use a number.")
    if LONG_NUMBER.search(skeleton):
        raise BodyNotPlainError(f"the body holds a number of more than {MAX_DIGITS} digits.")
    depth = int(np.cumsum(STEPS[np.frombuffer(skeleton, np.uint8)]).max(initial=0))
    if depth > MAX_DEPTH:
        raise BodyNotPlainError(
            f"the body is nested {depth} deep; this server reads up to {MAX_DEPTH}. Use less."
        )
    num_values = skeleton.count(b",") + skeleton.count(b":") + 1
    if num_values > MAX_VALUES:
        raise BodyNotPlainError(
            f"the body holds {num_values} values; this server reads up to {MAX_VALUES}. Send less."
        )
