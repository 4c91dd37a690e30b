"""Named chat templates, one file each, for tokenizers that have none. Loads no heavy library.

A file's first comment ends with `Tokens:`, the pieces that should be single tokens of the
vocabulary, the one that ends an answer last. The formats are those of the models' documentation.
"""

import re
from dataclasses import dataclass
from pathlib import Path

from llama_factory.core.errors import ModelError, suggest

ALIASES = {
    "chatglm": "chatglm3",
    "command": "cohere",
    "deepseekv3": "deepseek3",
    "gemma2": "gemma",
    "gemma3": "gemma",
    "glm-4": "glm4",
    "intern2": "internlm2",
    "llama3.1": "llama3",
    "llama3.2": "llama3",
    "mixtral": "mistral",
    "phi": "phi3",
    "phi3.5": "phi3",
    "qwen": "chatml",
    "qwen2": "chatml",
    "qwen2.5": "chatml",
    "smollm2": "chatml",
    "yi": "chatml",
}
"""Other names of the same formats."""

TOKENS = re.compile(r"Tokens:([^#]*?)-#\}", re.DOTALL)


@dataclass(frozen=True)
class NamedTemplate:
    """A chat format.

    Attributes:
        name: of its file.
        jinja: the template; it marks the assistant's tokens.
        tokens: pieces that should be single tokens; `eos_token` stands for the tokenizer's own. The
            last one ends an answer.
    """

    name: str
    jinja: str
    tokens: tuple[str, ...]


def names() -> list[str]:
    """Every name that `model.template` may have."""
    return sorted([*(path.stem for path in _files()), *ALIASES])


def is_named(jinja: object) -> bool:
    """Whether a template is one of ours, and not a tokenizer's own."""
    return any(jinja == path.read_text(encoding="utf-8") for path in _files())


def _files() -> list[Path]:
    return sorted(Path(__file__).parent.glob("*.jinja"))


def find(name: str) -> NamedTemplate:
    """The template of a name.

    Raises:
        ModelError: there is none.
    """
    if name not in names():
        raise ModelError(
            f"model.template: '{name}' is no template known here.{suggest(name, names())} Known "
            f"names: {', '.join(names())}."
        )
    file = ALIASES.get(name, name)
    jinja = (Path(__file__).parent / f"{file}.jinja").read_text(encoding="utf-8")
    listed = TOKENS.search(jinja)
    assert listed is not None, f"{file}.jinja lists no tokens"
    return NamedTemplate(file, jinja, tuple(listed[1].split()))
