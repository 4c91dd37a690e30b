"""Flat keys that add strategies to those of the settings."""

from typing import Any

from llama_factory.config.dialects.llama_factory.translation import Translation
from llama_factory.continual.presets import PRESETS

STRATEGIES = {"replay_buffer_size": ("replay", "buffer_size"), "ewc_lambda": ("ewc", "lambda")}
"""Flat key -> strategy and its setting."""
KEEPS = {
    "replay_buffer_size": "a single run has no earlier rows to replay; a workspace keeps them",
    "ewc_lambda": "a single run has no earlier weights to hold; a workspace keeps what they mean",
}
"""What each of them needs that a single run has not."""


def strategies(done: Translation) -> None:
    """replay_buffer_size and ewc_lambda: strategies beside those that the settings name."""
    given = [name for name in STRATEGIES if name in done.values]
    listed = _listed(done)
    if not given or listed is None:
        return
    for name in given:
        listed = _with(listed, name, done.values[name])
        if done.values[name]:
            done.note(name, f"{KEEPS[name]} from round to round (`llama-factory init`, `learn`).")
    done.put("strategies", listed, given[0])


def _listed(done: Translation) -> list[Any] | None:
    """The strategies without these keys: none for a file of flat keys alone.

    Returns:
        None where what is written is neither a list nor a recipe, which is told with its line.
    """
    written = done.settings.get("strategies", done.native("strategies"))
    recipe = "default" if written is None else written
    if isinstance(recipe, str):
        return [dict(s) for s in PRESETS[recipe].strategies] if recipe in PRESETS else None
    return list(recipe) if isinstance(recipe, list) else None


def _with(listed: list[Any], key: str, value: Any) -> list[Any]:
    """The list with a key's strategy set, added or, for 0, taken out."""
    kind, setting = STRATEGIES[key]
    found = next((each for each in listed if _kind(each) == kind), kind)
    others = [each for each in listed if _kind(each) != kind]
    if not value:
        return others
    options = found if isinstance(found, dict) else {"type": kind}
    changed = options | {setting: value}
    if len(others) == len(listed):
        return [*listed, changed]
    return [changed if _kind(each) == kind else each for each in listed]


def _kind(written: Any) -> Any:
    return written.get("type") if isinstance(written, dict) else written
