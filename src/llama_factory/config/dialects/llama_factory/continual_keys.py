"""Flat keys of the article that protect what was learned before."""

from typing import Any

from llama_factory.config.dialects.llama_factory.key import Converter, Key, count, number, part


def _from_zero(convert: Converter) -> Converter:
    def checked(value: Any) -> Any:
        found = convert(value)
        if found < 0:
            raise ValueError(f"must be 0 (off) or more; it is {value!r}.")
        return found

    return checked


CONTINUAL: dict[str, Key] = {
    "replay_buffer_size": part(
        "strategies",
        _from_zero(count),
        1000,
        about="`buffer_size` of the strategy `replay`, which is added where the list lacks it; 0 "
        "takes it out. A workspace is what keeps the rows.",
    ),
    "ewc_lambda": part(
        "strategies",
        _from_zero(number),
        0.1,
        about="`lambda` of the strategy `ewc`, which is added where the list lacks it; 0 takes it "
        "out. A workspace is what keeps the importance of weights.",
    ),
}
"""Old knowledge."""
