"""All texts of the page, in English and Chinese side by side: one JSON file a page."""

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path

FOLDER = Path(__file__).parent / "strings"
LANGUAGES = ("en", "zh")

Catalogue = Mapping[str, Mapping[str, str]]
"""By `page.key` the text in each language."""


@cache
def read_catalogue() -> Catalogue:
    """All texts; the file's name comes before each of its keys."""
    texts: dict[str, Mapping[str, str]] = {}
    for path in sorted(FOLDER.glob("*.json")):
        for key, both in json.loads(path.read_text(encoding="utf-8")).items():
            texts[f"{path.stem}.{key}"] = both
    return texts


def translate(language: str, key: str, values: Mapping[str, object]) -> str:
    """A text with its values.

    Args:
        language: one of `LANGUAGES`.
        key: such as `overview.title`.
        values: for the places in braces.
    """
    text = read_catalogue()[key][language]
    return text.format_map(values) if values else text


def choose_language(chosen: str, accepted: str) -> str:
    """The language of a request.

    Args:
        chosen: by the person; empty for none.
        accepted: the browser's `Accept-Language`.
    """
    if chosen in LANGUAGES:
        return chosen
    weighed = []
    for part in accepted.split(","):
        tag, _, weight = part.strip().partition(";q=")
        name = tag.strip().lower().partition("-")[0]
        if name in LANGUAGES:
            weighed.append((_number(weight), name))
    return max(weighed, key=lambda each: each[0], default=(1.0, LANGUAGES[0]))[1]


def _number(text: str) -> float:
    try:
        return float(text) if text else 1.0
    except ValueError:
        return 0.0
