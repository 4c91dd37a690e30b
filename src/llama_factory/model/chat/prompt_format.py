"""What shapes the prompts of a model besides the rows: a value, and its file beside the weights.

Prompts themselves come from `template.Renderer.text`, for training, tests, chat and server.
Loads no heavy library.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from llama_factory.core import files
from llama_factory.core.errors import ModelError
from llama_factory.model.chat.templates import find, is_named
from llama_factory.model.chat.templates.format import default_system
from llama_factory.model.chat.templates.tool_formats import with_tools_as

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

FILE = "prompt.json"
"""Lies beside trained weights; PEFT and others pass over it."""
RUN = "run.yaml"
"""Settings that a version of a workspace was made with, in the folder above its adapter."""

UNREADABLE = (OSError, ValueError, TypeError, AttributeError, LookupError, yaml.YAMLError)
"""What reading a damaged file of settings raises."""


@dataclass(frozen=True)
class PromptFormat:
    """How conversations are written for one model.

    Attributes:
        enable_thinking: given to reasoning templates; None leaves it to them.
        text_tokens: special tokens that the text of turns may write. All others are plain text
            there, and tokens only where the chat template writes them.
        template: the chat template, or several by name; None for the tokenizer's own.
        end_token: ends an answer; empty for the tokenizer's own.
        default_system: the system prompt of conversations that have none; empty for none but the
            template's own.
        tool_format: the family in whose way tools are listed and called; empty leaves it to the
            template.
    """

    enable_thinking: bool | None = None
    text_tokens: tuple[str, ...] = ()
    template: str | Mapping[str, str] | None = None
    end_token: str = ""
    default_system: str = ""
    tool_format: str = ""

    def filled(self, tokenizer: PreTrainedTokenizerBase) -> PromptFormat:
        """The same with nothing left to the tokenizer: a later change of settings cannot show."""
        return replace(
            self,
            template=self.template or tokenizer.chat_template,
            end_token=self.end_token or str(tokenizer.eos_token or ""),
        )

    def template_for(self, tokenizer: PreTrainedTokenizerBase, *, has_tools: bool) -> str:
        """The Jinja text that writes conversations with tools, or without."""
        own = self.template or tokenizer.chat_template
        if own is None or isinstance(own, str):
            return self._with_tools(str(own or ""))
        is_apart = has_tools and not self.tool_format and "tool_use" in own
        return self._with_tools(own["tool_use" if is_apart else "default"])

    def _with_tools(self, template: str) -> str:
        return with_tools_as(self.tool_format, template) if self.tool_format else template

    def end_id(self, tokenizer: PreTrainedTokenizerBase) -> int | None:
        """The token that ends an answer; None where it has none."""
        if not self.end_token:
            return tokenizer.eos_token_id
        found = tokenizer.convert_tokens_to_ids(self.end_token)
        is_known = found is not None and tokenizer.convert_ids_to_tokens(found) == self.end_token
        return int(found) if is_known else tokenizer.eos_token_id

    def give_to(self, tokenizer: PreTrainedTokenizerBase) -> None:
        """Make template and end token the tokenizer's own."""
        if self.template:
            tokenizer.chat_template = self.template
        if self.end_token and self.end_token != tokenizer.eos_token:
            tokenizer.eos_token = self.end_token

    def allowing(self, words: Sequence[str]) -> PromptFormat:
        """The same with more special tokens that text may write."""
        return replace(self, text_tokens=tuple(dict.fromkeys([*self.text_tokens, *words])))

    def portable(self, template: str | Mapping[str, str]) -> str | Mapping[str, str]:
        """A template with thoughts, system prompt and tools as they are set here, wherever it is
        used."""
        if not isinstance(template, str):
            return {name: str(self.portable(each)) for name, each in template.items()}
        template = self._with_tools(template)
        if self.default_system:
            template = default_system(self.default_system) + template
        if self.enable_thinking is None or "enable_thinking" not in template:
            return template
        thinks = str(self.enable_thinking).lower()
        head = f"{{%- if enable_thinking is not defined %}}{{%- set enable_thinking = {thinks} %}}"
        return f"{head}{{%- endif %}}{template}"

    def save(self, folder: Path) -> None:
        """Write it beside the weights that were trained so."""
        files.write_json(folder / FILE, asdict(self))


USUAL = PromptFormat()
"""All is left to the tokenizer and its template."""


def read(weights: Path, usual: PromptFormat, tokenizer: PreTrainedTokenizerBase) -> PromptFormat:
    """How the weights in a folder were taught to be asked.

    Args:
        weights: folder of an adapter or of a whole model.
        usual: for weights that nothing was written down for.
        tokenizer: the one that is used now.

    Raises:
        ModelError: the file is damaged.
    """
    return kept(weights) or _of_run(weights.parent / RUN, usual, tokenizer)


def kept(weights: Path) -> PromptFormat | None:
    """What lies beside weights; None beside those of other programs or of early versions.

    Raises:
        ModelError: the file is damaged.
    """
    file = weights / FILE
    if not file.is_file():
        return None
    try:
        return _parsed(files.read_json(file))
    except (OSError, ValueError, TypeError) as error:
        raise ModelError(
            f"{file} is damaged and cannot be read: {error}. Restore it from a backup; without it "
            "these weights would be asked in another way than they were taught."
        ) from error


def _parsed(values: dict[str, Any]) -> PromptFormat:
    return PromptFormat(**values | {"text_tokens": tuple(values["text_tokens"])})


def _of_run(file: Path, usual: PromptFormat, tokenizer: PreTrainedTokenizerBase) -> PromptFormat:
    """The format that the settings kept with an older version give."""
    if not file.is_file():
        return usual
    try:
        values = yaml.safe_load(file.read_text(encoding="utf-8"))
        thinking, name = values["data"].get("enable_thinking"), values["model"].get("template")
    except UNREADABLE as error:
        raise ModelError(
            f"{file} is damaged, so how its version is asked is unknown: {error}. Restore it from "
            "a backup, or use another version."
        ) from error
    had_none = is_named(tokenizer.chat_template)  # a tokenizer's own template won in any case
    template = find(name).jinja if name and had_none else None
    return replace(usual, enable_thinking=thinking, template=template)
