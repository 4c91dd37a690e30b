"""Augmentation: methods that write a text differently without changing its meaning, one a file.

An `AugmentPlan` names the methods to apply, `variants` makes the variants of rows. Sets in memory
and of the `datasets` library go through `augmenter`, files through `augmented_files`.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from pydantic import Field
from pydantic_core import PydanticCustomError

from llama_factory.core.errors import ConfigError
from llama_factory.core.settings import Registry, Settings, import_parts
from llama_factory.data.augment.synonyms import read_synonyms


class Augmentation(Settings):
    """A way of writing a text differently; holds settings only, so that any process can use it."""

    rate: float = Field(0.1, ge=0, le=1)
    """Fraction of the words, characters or marks that are changed; above 0 at least one is. Higher
    makes rows more varied and harder to understand, lower keeps them closer to the original."""

    @property
    def num_threads(self) -> int:
        """How many texts are changed at once; more than 1 only where a method waits for others."""
        return 1

    def change(self, text: str, rng: Random) -> str:
        """The text as this method writes it; the same text where there is nothing to change.

        A text that holds anything never becomes empty, and the result depends on nothing but the
        settings, the text and `rng`.
        """
        raise NotImplementedError


AUGMENTATIONS: Registry[Augmentation] = Registry("method of augmentation")
Method = str | Mapping[str, Any] | Augmentation
"""A method by its name, by its settings (`{"type": "typo", "rate": 0.1}`), or itself."""


@dataclass(frozen=True)
class AugmentPlan:
    """How a set is augmented.

    Attributes:
        methods: each one makes its own variants of a row.
        num_copies: variants by each method.
        seed: same seed and rows, same variants.

    Raises:
        ConfigError: there is no method, or `num_copies` is below 1.
    """

    methods: tuple[Augmentation, ...]
    num_copies: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        if self.num_copies < 1:
            raise ConfigError(f"num_copies is {self.num_copies}; it must be 1 or more.")
        if not self.methods:
            known = ", ".join(sorted(AUGMENTATIONS.parts))
            raise ConfigError(f"no augmentation method is named. Known: {known}.")


def parse_methods(
    methods: Iterable[Method], synonym_dict: str | Path | None = None
) -> tuple[Augmentation, ...]:
    """Methods from their names or settings.

    Args:
        methods: names, settings and methods in any mix.
        synonym_dict: dictionary of the methods that read one and do not name their own.

    Raises:
        ConfigError: a method or a setting is unknown, or none of the methods reads the dictionary.
        DataError: the dictionary cannot be read.
    """
    if isinstance(methods, str | Mapping):
        given = json.dumps(methods, ensure_ascii=False, default=str)
        raise ConfigError(f"methods must be a list, as in methods=[{given}].")
    options = [_options(method) for method in methods]
    if synonym_dict is not None:
        options = _with_dictionary(options, Path(synonym_dict))
    parsed = tuple(map(_parse, options))
    for method in parsed:
        if hasattr(method, "synonyms"):
            read_synonyms(method.synonyms)
    return parsed


def _options(method: Method) -> dict[str, Any] | Augmentation:
    if isinstance(method, Augmentation):
        return method
    return dict(method) if isinstance(method, Mapping) else {"type": method}


def _with_dictionary(
    options: list[dict[str, Any] | Augmentation], path: Path
) -> list[dict[str, Any] | Augmentation]:
    readers = {n for n, part in AUGMENTATIONS.parts.items() if "synonyms" in part.model_fields}
    named = [each.get("type") for each in options if isinstance(each, dict)]
    if readers.isdisjoint(named) and all(name in AUGMENTATIONS.parts for name in named):
        raise ConfigError(
            f"synonym_dict is {path}, but none of the methods reads a dictionary. Leave it out, or "
            f"add one of {', '.join(sorted(readers))}."
        )
    return [
        {"synonyms": path} | each
        if isinstance(each, dict) and each.get("type") in readers
        else each
        for each in options
    ]


def _parse(options: dict[str, Any] | Augmentation) -> Augmentation:
    try:
        return AUGMENTATIONS.parse(options)
    except PydanticCustomError as error:
        name = options.get("type") if isinstance(options, dict) else ""
        is_known = name in AUGMENTATIONS.parts
        raise ConfigError(f"{name}: {error}" if is_known else str(error)) from None


import_parts(__name__, __path__)
