"""Private data in any text of a row: masked, replaced by a pseudonym, or a reason to drop it."""

import hashlib
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cached_property
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from llama_factory.core.errors import suggest
from llama_factory.core.sentences import kind_of_sentence
from llama_factory.core.types import Example, Message, ToolCall
from llama_factory.data.cleaning import CLEANERS, Dropped, RowStep
from llama_factory.text.private import KINDS, find_all, may_hold

PRIVATE = kind_of_sentence("data.private", "private data ({what})")

Action = Literal["mask", "hash", "drop", "keep"]
Mark = Callable[[str, str], str]
"""Kind and value -> what stands in the text instead."""

_VALUE = re.compile(r'(?:("(?:[^"\\]|\\.)*")(\s*:\s*))?("(?:[^"\\]|\\.)*"|-?\d[\d.eE+-]*)')
"""A string or number in JSON text, with its key where it has one."""
_HUMP = re.compile(r"(?<=[a-z])(?=[A-Z])|_")


NO_PRIVATE_KIND = kind_of_sentence(
    "settings.no_private_kind", "'{kind}' is not a kind of private data.{hint} Known: {known}."
)


def _known(kind: str) -> str:
    if kind not in KINDS:
        hint = suggest(kind, KINDS)
        raise ValueError(NO_PRIVATE_KIND(kind=kind, hint=hint, known=", ".join(KINDS)))
    return kind


@CLEANERS.register("private_data")
class PrivateData(RowStep):
    """Finds private data by pattern and validation in every text of a row.

    Questions, answers, system texts, tool calls, tool lists and rejected answers are all changed
    in the same way; JSON stays JSON.
    """

    kinds: dict[Annotated[str, AfterValidator(_known)], Action] = {}
    """What to do with each kind, as in `{phone: hash, bank_card: drop, ip: keep}`: `mask` writes
    `[PHONE]`, `hash` a pseudonym like `[PHONE:3f9a12c4]` that stays the same for the same value,
    `drop` leaves the row out, `keep` looks away. Kinds that are not named are masked."""
    public: tuple[str, ...] = ()
    """Values that everybody may know, such as the own hotline or address; they stay as they are."""
    salt: str = Field(default="", repr=False)
    """Secret key of the pseudonyms. Without one, whoever has the data can try all phone numbers
    until a pseudonym fits; with another one, all pseudonyms change."""

    @cached_property
    def _sought(self) -> frozenset[str]:
        return frozenset(kind for kind in KINDS if self.kinds.get(kind) != "keep")

    def clean(self, row: Example) -> Example | Dropped:
        """The row itself where nothing private is in it."""
        whole = "\n".join(_texts(row))
        if not may_hold(whole, self._sought) and "\\u" not in whole:
            return row
        seen: set[str] = set()

        def mark(kind: str, value: str) -> str:
            if kind not in self._sought or value in self.public:
                return value
            seen.add(kind)
            return self._mark(kind, value)

        changed = _rewritten(row, mark)
        dropped = [kind for kind in sorted(seen) if self.kinds.get(kind) == "drop"]
        if dropped:
            return Dropped(PRIVATE(what=dropped[0]))
        return changed if seen else row

    def mask(self, row: Example) -> Example:
        """The row with marks for all that is private; what `drop` names is masked too."""
        kinds = {
            kind: "mask" if action == "drop" else action for kind, action in self.kinds.items()
        }
        masked = self.model_copy(update={"kinds": kinds}).clean(row)
        assert isinstance(masked, Example)
        return masked

    def mask_text(self, text: str) -> str:
        """The same of a text that belongs to no row."""
        return self.mask(Example((Message("assistant", text),), "", "", 0)).answer if text else ""

    def _mark(self, kind: str, value: str) -> str:
        if self.kinds.get(kind) != "hash":
            return f"[{kind.upper()}]"
        key = hashlib.blake2b(self.salt.encode()).digest()
        canonical = f"{kind}:{KINDS[kind].canonical(value)}".encode(errors="surrogatepass")
        return f"[{kind.upper()}:{hashlib.blake2b(canonical, digest_size=4, key=key).hexdigest()}]"


def _texts(row: Example) -> Iterator[str]:
    """Every text of a row that a model could learn."""
    yield row.tools
    for turn in (*row.messages, row.rejected) if row.rejected else row.messages:
        yield turn.content
        for call in turn.tool_calls:
            yield f"{call.name} {call.arguments}"


def _rewritten(row: Example, mark: Mark) -> Example:
    return replace(
        row,
        messages=tuple(_turn(turn, mark) for turn in row.messages),
        tools=_text(row.tools, mark),
        rejected=_turn(row.rejected, mark) if row.rejected else None,
    )


def _turn(turn: Message, mark: Mark) -> Message:
    calls = tuple(
        ToolCall(_text(call.name, mark), _text(call.arguments, mark)) for call in turn.tool_calls
    )
    return replace(turn, content=_text(turn.content, mark), tool_calls=calls)


def _text(text: str, mark: Mark, context: str = "") -> str:
    """A text with marks for what is private; `context` is read as if it stood before it."""
    if _is_json(text):
        return _VALUE.sub(lambda match: _json_value(match, mark), text)
    before = len(context)
    written, end = "", before
    for start, stop, kind in find_all(context + text):
        if start >= before:
            written += text[end - before : start - before]
            written += mark(kind, text[start - before : stop - before])
            end = stop
    return written + text[end - before :]


def _is_json(text: str) -> bool:
    """Whether a text is a JSON object or list: it has to stay one."""
    if not text.lstrip().startswith(("{", "[")):
        return False
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _json_value(match: re.Match[str], mark: Mark) -> str:
    """One value of JSON text, read with its key before it; a masked number becomes a string."""
    key, colon, value = match[1] or "", match[2] or "", match[3]
    name = json.loads(key) if key else ""
    context = f"{_HUMP.sub(' ', name)}: " if name else ""
    plain = json.loads(value) if value.startswith('"') else value
    marked = _text(plain, mark, context)
    if marked != plain:
        value = json.dumps(marked, ensure_ascii=False)
    marked = _text(name, mark)
    return f"{json.dumps(marked, ensure_ascii=False) if marked != name else key}{colon}{value}"
