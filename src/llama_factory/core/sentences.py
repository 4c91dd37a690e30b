"""Sentences for people that remember what they were built from, so that others can translate them.

A sentence is its English text wherever a text is wanted. Beside it stand its kind and its values,
which are kept with it in files; what was written before there were kinds is its text alone.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from string import Formatter
from typing import Any

LISTED = "listed"
"""Kind of several sentences with semicolons between them; their value is `parts`."""
KEPT = "sentences"
"""Name under which files keep kinds and values beside the texts."""


class Sentence(str):
    """A text with its kind and values."""

    __slots__ = ("kind", "values")
    kind: str
    values: Mapping[str, Any]

    def __new__(cls, text: str, kind: str, values: Mapping[str, Any]) -> "Sentence":
        """A sentence.

        Args:
            text: in English.
            kind: its name in `KINDS`, or `LISTED`.
            values: texts, numbers and other sentences, or a list of them, by name.
        """
        made = super().__new__(cls, text)
        made.kind, made.values = kind, values
        return made

    def __deepcopy__(self, memo: Any) -> "Sentence":
        return self

    def __copy__(self) -> "Sentence":
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return Sentence, (str(self), self.kind, dict(self.values))

    def to_json(self) -> dict[str, Any]:
        """Plain values, with the text."""
        values = {name: _plain(value) for name, value in self.values.items()}
        return {"text": str(self), "kind": self.kind, "values": values}


@dataclass(frozen=True)
class SentenceKind:
    """Sentences that differ in their values alone.

    Attributes:
        name: unique.
        english: the text, with the values' names in braces.
    """

    name: str
    english: str

    def __call__(self, **values: Any) -> Sentence:
        """The sentence with these values."""
        return Sentence(self.english.format_map(values), self.name, values)

    @cached_property
    def pieces(self) -> tuple[tuple[str, str | None], ...]:
        """Words, and the name of the value that follows them; None at the end."""
        return tuple((words, name) for words, name, _, _ in Formatter().parse(self.english))

    def values_in(self, text: str) -> dict[str, str] | None:
        """What a text of this kind was made from; None where it is of another kind.

        A value ends where the words that follow it appear first.
        """
        found: dict[str, str] = {}
        place, open_name = 0, ""
        for number, (words, name) in enumerate(self.pieces, 1):
            is_last = number == len(self.pieces) and name is None
            start = text.find(words, place) if open_name and not is_last else place
            if is_last and open_name:
                start = len(text) - len(words)
            if start < place or not text.startswith(words, start):
                return None
            if open_name:
                found[open_name] = text[place:start]
            place, open_name = start + len(words), name or ""
        if open_name:
            found[open_name] = text[place:]
        return found if open_name or place == len(text) else None


KINDS: dict[str, SentenceKind] = {}
"""All kinds by name, as far as the modules that define them were imported."""


def kind_of_sentence(name: str, english: str) -> SentenceKind:
    """Define a kind.

    Args:
        name: unique; its room first, as in `gate.learned`.
        english: the text, with the values' names in braces.
    """
    kind = SentenceKind(name, english)
    if KINDS.setdefault(name, kind) != kind:
        raise ValueError(f"two kinds of sentences are called '{name}'")
    return kind


def listed(parts: Iterable[str]) -> str:
    """Texts with semicolons between them; one alone stays as it is."""
    texts = list(parts)
    if len(texts) == 1:
        return texts[0]
    if not any(isinstance(each, Sentence) for each in texts):
        return "; ".join(texts)
    return Sentence("; ".join(texts), LISTED, {"parts": texts})


def keep_kinds(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values with what is to be kept of the sentences among them, for a file."""
    kept = {name: _plain(value) for name, value in values.items() if _has_sentence(value)}
    return {**values, KEPT: kept} if kept else dict(values)


def restore_kinds(values: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of `keep_kinds`; what does not fit is left as the text that it is."""
    kept = values.get(KEPT)
    plain = {name: value for name, value in values.items() if name != KEPT}
    for name, record in kept.items() if isinstance(kept, dict) else ():
        restored = _restored(record)
        if name in plain and restored == plain[name]:
            plain[name] = restored
    return plain


def _has_sentence(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return any(map(_has_sentence, value))
    return isinstance(value, Sentence)


def _plain(value: Any) -> Any:
    if isinstance(value, Sentence):
        return value.to_json()
    return [_plain(each) for each in value] if isinstance(value, list | tuple) else value


def _restored(record: Any) -> Any:
    if isinstance(record, list):
        return [_restored(each) for each in record]
    if not isinstance(record, dict):
        return record
    try:
        values = {str(name): _restored(value) for name, value in record["values"].items()}
        return Sentence(str(record["text"]), str(record["kind"]), values)
    except (KeyError, AttributeError):
        return record
