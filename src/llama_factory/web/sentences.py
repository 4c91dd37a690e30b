"""What gate, loop and journal say, in the visitor's language: kinds are translated, values kept.

The English text is the sentence itself; the Chinese ones are in `sentences_zh.json` by kind.
"""

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from llama_factory.core.sentences import KINDS, LISTED, Sentence

FILES = {"zh": Path(__file__).parent / "sentences_zh.json"}
SEPARATORS = {"zh": "；"}


@cache
def read_translations(language: str) -> Mapping[str, str]:
    """Texts by kind; none of a language that has no file."""
    path = FILES.get(language)
    return json.loads(path.read_text(encoding="utf-8")) if path else {}


def translate_sentence(language: str, text: object) -> str:
    """A sentence in another language.

    Args:
        language: of the visitor.
        text: a `Sentence`, or any text: what was written before there were kinds stays English.
    """
    texts = read_translations(language)
    if not texts or not isinstance(text, str):
        return str(text)
    if not isinstance(text, Sentence):
        name = _plain_kinds().get(text, "")
        return texts.get(name, text)
    if text.kind == LISTED:
        parts = (translate_sentence(language, each) for each in text.values.get("parts", ()))
        return SEPARATORS[language].join(parts)
    values = {name: translate_sentence(language, value) for name, value in text.values.items()}
    try:
        return texts[text.kind].format_map(values)
    except (KeyError, IndexError, ValueError):
        return str(text)


def _plain_kinds() -> dict[str, str]:
    """Kinds without values by their text: these are known even where only the text was kept."""
    return {kind.english: name for name, kind in KINDS.items() if "{" not in kind.english}
