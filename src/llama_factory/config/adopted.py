"""The settings of a workspace that goes on from an adapter trained elsewhere."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from llama_factory.config import template
from llama_factory.config.schema import RunConfig
from llama_factory.core import files
from llama_factory.core.errors import ModelError
from llama_factory.model.adapters import ADAPTERS

KINDS = {"LORA": "lora", "OFT": "oft"}
"""PEFT's name of a kind of adapter -> ours."""
KEPT = ("template", "replace_template", "trust_remote_code")
"""Settings of the model that hold for the workspace too."""
ASKED = ("default_system", "enable_thinking", "max_tokens", "tool_format")
"""The same of its data."""


def adopted_file(base_model: str, adapter: Path, trained: RunConfig | None) -> str:
    """The commented settings file, with what fits the adapter and how it was trained.

    Args:
        base_model: that the adapter names.
        adapter: its folder.
        trained: the settings that it was trained with, where they are known.

    Raises:
        ModelError: it is of a kind that rounds cannot go on with.
    """
    text = template.settings_file(base_model)
    model: dict[str, Any] = {"adapter": _adapter(adapter)}
    data: dict[str, Any] = {}
    if trained is not None:
        model |= _chosen(trained.model, KEPT)
        data = _chosen(trained.data, ASKED)
    for section, values in (("model", model), ("data", data)):
        lines = [f"  {name}: {_inline(value)}\n" for name, value in values.items()]
        text = text.replace(f"\n{section}:\n", f"\n{section}:\n{''.join(lines)}", 1)
    return text


def _chosen(settings: Any, names: Sequence[str]) -> dict[str, Any]:
    """What was set of these."""
    given = {name: getattr(settings, name) for name in names}
    return {name: value for name, value in given.items() if value not in (None, "")}


def _adapter(folder: Path) -> dict[str, Any]:
    """The kind and shape of a saved adapter as settings."""
    peft_type = files.read_json(folder / "adapter_config.json").get("peft_type", "")
    if peft_type not in KINDS:
        raise ModelError(
            f"{folder}: rounds cannot go on with an adapter of type {peft_type}. Known: "
            f"{', '.join(KINDS)}. It can be asked and merged: llama-factory chat, api, export."
        )
    part = ADAPTERS.parse(KINDS[peft_type]).adopt(folder)
    return {"type": KINDS[peft_type]} | part.model_dump(mode="json", exclude_defaults=True)


def _inline(value: Any) -> str:
    text = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=10**6)
    return text.removesuffix("\n").removesuffix("\n...")
