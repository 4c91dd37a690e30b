"""A model's config by its name: its own file, or what is known of well-known models."""

from functools import cache
from pathlib import Path
from typing import Any

import yaml
from transformers import AutoConfig

from llama_factory.core.errors import ModelError, suggest
from llama_factory.model.source import EMBEDDED, HUB_IDS, resolve_outline

FILE = Path(__file__).parent / "known_configs.yaml"
NAMES = {
    "width": "hidden_size",
    "inner": "intermediate_size",
    "layers": "num_hidden_layers",
    "heads": "num_attention_heads",
    "groups": "num_key_value_heads",
    "head": "head_dim",
    "words": "vocab_size",
    "tied": "tie_word_embeddings",
}
"""Keys of the table -> those of Transformers."""
OTHERS = {EMBEDDED: "smollm2-135m", "llama3.1-8b": "llama3-8b", "llama3.1-70b": "llama3-70b"}
"""Names of models that have the size of another one."""


def config_of(name: str, *, trust_remote_code: bool = False) -> Any:
    """The config of a model, by a folder, a name of the table, or a hub id.

    Args:
        name: see `ModelSettings.base_model`.
        trust_remote_code: run code that comes with the config.

    Raises:
        ModelError: nothing of that name is known here or on the hub.
    """
    known = _known().get(_short(name))
    if known is not None and not Path(name).expanduser().is_dir():
        return known
    try:
        folder = resolve_outline(name)
    except ModelError as error:
        raise ModelError(f"{error}{suggest(name, sorted(_known()))} {_named()}") from error
    return AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code)


def _short(name: str) -> str:
    """`Qwen/Qwen2.5-7B-Instruct` and `Llama-3.1-70B` as the table has them."""
    by_id = {each: short for short, each in HUB_IDS.items()}
    plain = by_id.get(name, name.rpartition("/")[2]).lower()
    for ending in ("-instruct", "-chat", "-it", "-hf", "-base"):
        plain = plain.removesuffix(ending)
    plain = plain.removeprefix("meta-")
    for family in ("llama", "gemma", "phi"):
        plain = plain.replace(f"{family}-2", f"{family}2").replace(f"{family}-3", f"{family}3")
    return OTHERS.get(plain, plain)


def _named() -> str:
    return f"Sizes are known of: {', '.join(sorted(_known()))}."


@cache
def _known() -> dict[str, Any]:
    found: dict[str, dict[str, dict[str, Any]]] = yaml.safe_load(FILE.read_text(encoding="utf-8"))
    return {
        name: AutoConfig.for_model(kind, **{NAMES[key]: value for key, value in size.items()})
        for kind, models in found.items()
        for name, size in models.items()
    }
