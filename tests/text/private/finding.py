"""What the tests of the kinds share: the values that one kind finds in a text."""

from llama_factory.text.private import find_all


def found(kind: str, text: str) -> list[str]:
    return [text[start:end] for start, end, name in find_all(text) if name == kind]
