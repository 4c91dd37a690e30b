"""Rows in languages that nobody asked for."""

from pydantic import Field, field_validator

from llama_factory.core.errors import suggest
from llama_factory.core.sentences import kind_of_sentence
from llama_factory.core.types import Example
from llama_factory.data.cleaning import CLEANERS, Dropped, RowStep
from llama_factory.text.languages import CODES, SAME_AS, language_of

OTHER_LANGUAGE = kind_of_sentence("data.other_language", "language is {found}, kept are {kept}")

_SECOND_LOOK = 2000
"""Characters that are read before a row is dropped."""


NO_LANGUAGE = kind_of_sentence(
    "settings.no_language", "'{code}' is no language code.{hint} Examples: en, zh, ja, fr."
)


@CLEANERS.register("language")
class Language(RowStep):
    """Drops a row when its answer and its question are both surely in other languages."""

    keep: tuple[str, ...] = ()
    """Codes such as [en, zh]. Empty: all languages, which `data stats` counts. Code counts as
    English, so keep en where rows hold nothing else."""
    min_confidence: float = Field(0.65, ge=0, le=1)
    """How sure the language must be before a row is dropped for it. Higher drops less."""
    min_characters: int = Field(40, ge=1)
    """Shorter texts are never judged, so that code, formulas and names stay. A Chinese, Japanese
    or Korean character counts as four."""

    @field_validator("keep")
    @classmethod
    def _are_known(cls, codes: tuple[str, ...]) -> tuple[str, ...]:
        for code in codes:
            if code not in CODES:
                near = SAME_AS.get(code.lower().replace("_", "-"))
                hint = f" Did you mean '{near}'?" if near else suggest(code.lower(), CODES)
                raise ValueError(NO_LANGUAGE(code=code, hint=hint))
        return codes

    def clean(self, row: Example) -> Example | Dropped:
        """The row itself, or which language it is in."""
        if not self.keep:
            return row
        answer = self._surely(row.answer)
        if answer in self.keep:
            return row
        users = [turn.content for turn in row.prompt if turn.role == "user"]
        asked = self._surely(users[-1]) if users else ""
        # a translation is asked for in one language and answered in another: both are wanted
        if asked in self.keep:
            return row
        found = asked if self._is_short(row.answer) else answer
        return Dropped(OTHER_LANGUAGE(found=found, kept=", ".join(self.keep))) if found else row

    def _surely(self, text: str) -> str:
        """The language of a text, or nothing where it is short or doubtful."""
        if self._is_short(text):
            return ""
        language, confidence = language_of(text)
        if language not in self.keep:
            # quicker looks at the beginning alone err in 1 of 1,000 rows, and this may drop one
            language, confidence = language_of(text, _SECOND_LOOK)
        return language if confidence >= self.min_confidence else ""

    def _is_short(self, text: str) -> bool:
        if len(text) >= self.min_characters:
            return False
        eastern = 0 if text.isascii() else sum(character >= "\u2e80" for character in text)
        return len(text) + 3 * eastern < self.min_characters
