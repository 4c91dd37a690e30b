"""What shapes the prompts of a model besides the rows: a value, and its file beside the weights.

Prompts themselves are made in `conversation.ask`, for training, tests, chat and server alike.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import yaml
from transformers import PreTrainedTokenizerBase

from llama_factory.core import files
from llama_factory.core.errors import ModelError
from llama_factory.model.templates import find

FILE = "prompt.json"
"""Lies beside trained weights; PEFT and others pass over it."""
RUN = "run.yaml"
"""Settings that a version of a workspace was made with, in the folder above its adapter."""


@dataclass(frozen=True)
class PromptFormat:
    """How conversations are written for one model.

    Attributes:
        enable_thinking: what reasoning templates are told; None leaves it to them.
        text_tokens: special tokens that the text of turns may write. All others are plain text
            there, and tokens only where the chat template writes them.
        template: the chat template, or several by name; None for the tokenizer's own.
        end_token: ends an answer; empty for the tokenizer's own.
    """

    enable_thinking: bool | None = None
    text_tokens: tuple[str, ...] = ()
    template: str | Mapping[str, str] | None = None
    end_token: str = ""

    def filled(self, tokenizer: PreTrainedTokenizerBase) -> "PromptFormat":
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
            return str(own or "")
        return own["tool_use" if has_tools and "tool_use" in own else "default"]

    def give_to(self, tokenizer: PreTrainedTokenizerBase) -> None:
        """Make template and end token the tokenizer's own."""
        if self.template:
            tokenizer.chat_template = self.template
        if self.end_token and self.end_token != tokenizer.eos_token:
            tokenizer.eos_token = self.end_token

    def save(self, folder: Path) -> None:
        """Write it beside the weights that were trained so."""
        files.write_json(folder / FILE, asdict(self))


USUAL = PromptFormat()
"""All is left to the tokenizer and its template."""


def read(weights: Path, usual: PromptFormat) -> PromptFormat:
    """How the weights in a folder were taught to be asked.

    Args:
        weights: folder of an adapter or of a whole model.
        usual: for weights that nothing was written down for.

    Raises:
        ModelError: the file is damaged.
    """
    file = weights / FILE
    if not file.is_file():
        return _of_run(weights.parent / RUN, usual)
    try:
        return _parsed(files.read_json(file))
    except (OSError, ValueError, TypeError) as error:
        raise ModelError(
            f"{file} is damaged and cannot be read: {error}. Restore it from a backup; without it "
            "these weights would be asked in another way than they were taught."
        ) from error


def _parsed(values: dict[str, Any]) -> PromptFormat:
    return PromptFormat(**values | {"text_tokens": tuple(values["text_tokens"])})


def _of_run(file: Path, usual: PromptFormat) -> PromptFormat:
    """What the settings kept with an older version say of its prompts."""
    if not file.is_file():
        return usual
    values = yaml.safe_load(file.read_text(encoding="utf-8"))
    name = values.get("model", {}).get("template")
    return replace(
        usual,
        enable_thinking=values.get("data", {}).get("enable_thinking"),
        template=find(name).jinja if name and usual.template is None else usual.template,
    )
