"""Other dialects -> native settings: LLaMA-Factory's flat keys, and the article's one name."""

from collections.abc import Mapping
from typing import Any

from llama_factory.config.dialects.keys import (
    DEFAULTS,
    KEYS,
    NATIVE_DEFAULTS,
)
from llama_factory.config.dialects.rules import RULES
from llama_factory.config.dialects.translation import Translation
from llama_factory.config.dialects.values import Key, is_same
from llama_factory.core.errors import suggest

NATIVE_TOO = frozenset({"output_dir", "overwrite_output_dir", "resume_from_checkpoint"})
"""Keys that are called the same in both dialects."""
ARTICLE_NAMES: dict[tuple[str | int, ...], tuple[str | int, ...]] = {
    ("model", "adapter", "rank"): ("model", "lora_rank"),
}
"""Native setting -> what the article's three-section file calls it."""


def is_flat(key: str) -> bool:
    """Whether a top-level name is a flat key and nothing else."""
    return key in KEYS and key not in NATIVE_TOO


def translate(
    flat: Mapping[str, Any],
    base: Mapping[str, Any] | None = None,
    *,
    num_processes: int = 1,
    allows_unknown: bool = False,
) -> Translation:
    """The native settings of flat keys.

    Args:
        flat: keys as given; an empty value (null) is a key that is not given.
        base: settings of a native file that the keys are added to. None: the keys are all there
            is, and LLaMA-Factory's defaults hold.
        num_processes: that train together; a batch is given for each of them.
        allows_unknown: keys that nobody knows are notes and no problems.
    """
    given = {name: value for name, value in flat.items() if value is not None}
    unknown = sorted(given.keys() - KEYS.keys()) if allows_unknown else []
    given = {name: value for name, value in given.items() if name not in unknown}
    problems: list[tuple[str, str]] = []
    values = _read(given, problems)
    done = Translation(
        (DEFAULTS if base is None else {}) | values,
        frozenset(given),
        base or {},
        num_processes,
        problems=problems,
    )
    done.notes += [f"{name}: nobody knows this key; it changes nothing." for name in unknown]
    if base is None:
        _begin(done)
    for rule in RULES:
        rule(done)
    for name, value in done.values.items():
        _apply(done, name, KEYS[name], value)
    return done


def _read(given: Mapping[str, Any], problems: list[tuple[str, str]]) -> dict[str, Any]:
    values = {}
    for name, value in given.items():
        try:
            values[name] = _known(name).convert(value)
        except ValueError as error:
            problems.append((name, str(error)))
    return values


def _known(name: str) -> Key:
    if name in KEYS:
        return KEYS[name]
    raise ValueError(f"no such key.{suggest(name, KEYS)}")


def _begin(done: Translation) -> None:
    """What a file of flat keys alone must have, and has by default."""
    done.settings.update(NATIVE_DEFAULTS)
    done.sources.update(dict.fromkeys(NATIVE_DEFAULTS, ""))
    if "model_name_or_path" not in done.given:
        done.refuse("model_name_or_path", "not given. Name the base model: a folder or a hub id.")


def _apply(done: Translation, name: str, key: Key, value: Any) -> None:
    if key.kind == "setting":
        done.put(key.target, value, name)
    elif key.kind == "ignored":
        done.ignored.append(f"{name}: {key.about}")
    elif key.kind == "noted" and not any(is_same(value, each) for each in key.off):
        done.note(name, key.about)


def translate_article(values: dict[str, Any]) -> dict[str, Any]:
    """The same settings with `model.lora_rank` as `model.adapter.rank`; anything else unchanged."""
    model = values.get("model")
    if not isinstance(model, dict) or "lora_rank" not in model:
        return values
    adapter = model.get("adapter", {"type": "lora"})
    adapter = {"type": adapter} if isinstance(adapter, str) else adapter
    rest = {key: value for key, value in model.items() if key != "lora_rank"}
    return values | {"model": rest | {"adapter": adapter | {"rank": model["lora_rank"]}}}
