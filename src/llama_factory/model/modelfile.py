"""An Ollama Modelfile for an exported model. Its template is derived from the tokenizer's own.

https://github.com/ollama/ollama/blob/main/docs/modelfile.md; formats that Ollama's turn-by-turn
template cannot express are left to the template inside the model file.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace

from transformers import PreTrainedTokenizerBase

from llama_factory.core.types import Message
from llama_factory.model.chat.template import REFUSALS, Renderer

SYSTEM, FIRST, ANSWER, SECOND = "zqsystem", "zqfirst", "zqanswer", "zqsecond"
"""Contents that no template writes itself, searched for in what it renders."""


@dataclass(frozen=True)
class TurnFormat:
    """A chat format that writes each turn as something before and something after its content.

    Attributes:
        start: before the first turn, where no system turn stands there.
        user: before and after a user's content, up to where the answer begins.
        answer: before and after an answer that was given.
        system: before and after the system turn's content; None where there is no such turn.
        is_inside: whether the system turn stands within the first user's turn, before its content.
    """

    start: str
    user: tuple[str, str]
    answer: tuple[str, str]
    system: tuple[str, str] | None = None
    is_inside: bool = False

    def text(self, turns: list[Message]) -> str:
        """What Ollama's template makes of a conversation."""
        system, written = "", {"user": self.user, "assistant": self.answer}
        if self.system is not None and turns[0].role == "system":
            system, turns = turns[0].content.join(self.system), turns[1:]
        parts = [turn.content.join(written[turn.role]) for turn in turns]
        if self.is_inside:
            opening = self.user[0]
            parts[0] = opening + system + parts[0].removeprefix(opening)
            system = ""
        return (system or self.start) + "".join(parts)

    def go_template(self) -> str:
        """The format in the template language of Go."""
        system = "{{ $.System }}".join(self.system or ("", ""))
        head, first = self.start, ""
        if self.is_inside:
            head = "{{ $first := true }}" + head
            first = f"{{{{ if and $first $.System }}}}{system}{{{{ end }}}}{{{{ $first = false }}}}"
        elif self.system is not None:
            otherwise = f"{{{{ else }}}}{self.start}" if self.start else ""
            head = f"{{{{ if .System }}}}{system}{otherwise}{{{{ end }}}}"
        opening, after = self.user
        return (
            head
            + '{{ range .Messages }}{{ if eq .Role "user" }}'
            + f"{opening}{first}{{{{ .Content }}}}{after}"
            + '{{ else if eq .Role "assistant" }}'
            + "{{ .Content }}".join(self.answer)
            + "{{ end }}{{ end }}"
        )


def modelfile(tokenizer: PreTrainedTokenizerBase, end_tokens: list[str]) -> str:
    """The text of a Modelfile that lies beside the weights.

    Args:
        tokenizer: of the exported model.
        end_tokens: what ends an answer.
    """
    lines = ["FROM ."]
    form = turn_format(tokenizer)
    if form is None:
        lines.append(
            "# No TEMPLATE: this chat format cannot be written here; the model's own holds."
        )
    else:
        lines.append(f'TEMPLATE """{form.go_template()}"""')
    lines += [f"PARAMETER stop {json.dumps(token, ensure_ascii=False)}" for token in end_tokens]
    return "\n".join(lines) + "\n"


def turn_format(tokenizer: PreTrainedTokenizerBase) -> TurnFormat | None:
    """The format of a tokenizer's chat template; None where turns depend on each other.

    The result is compared with what the tokenizer itself renders, with and without a system turn.
    """
    renderer = Renderer(tokenizer)
    talk = [Message("user", FIRST), Message("assistant", ANSWER), Message("user", SECOND)]
    turns = [Message("system", SYSTEM), *talk]
    bos = _added_at_the_start(tokenizer)
    try:
        plain = renderer.text(talk, ask=True).removeprefix(bos)
        whole = renderer.text(turns, ask=True).removeprefix(bos)
    except REFUSALS:
        return None
    derived = _derived(plain, renderer.habits.end)
    forms = (add(form, whole) for form in derived for add in (_with_system, _with_system_inside))
    exact = (f for f in forms if f.text(talk) == plain and f.text(turns) == whole)
    return next((f for f in exact if _is_writable(f)), None)


def _added_at_the_start(tokenizer: PreTrainedTokenizerBase) -> str:
    """What tokenizing, and so Ollama, puts before any text; a template must not write it again."""
    first = tokenizer("a")["input_ids"][0]
    return str(tokenizer.bos_token) if first == tokenizer.bos_token_id else ""


def _derived(plain: str, end_tokens: str) -> Iterator[TurnFormat]:
    """Formats without a system turn, from question, answer and question; the likeliest first.

    What comes before both questions opens a user's turn, but for the end of the answer; where the
    mark at the start and the one that ends an answer end alike, less of it does.
    """
    pieces = []
    for content in (FIRST, ANSWER, SECOND):
        before, found, plain = plain.partition(content)
        if not found:
            return
        pieces.append(before)
    head, after_user, between = pieces
    longest = _common_end(head, between.removeprefix(end_tokens))
    lead = after_user.removeprefix(plain)  # what a finished answer has before it, as a space
    for begin in range(len(longest) + 1):
        opening = longest[begin:]
        answer = (lead, between.removesuffix(opening))
        yield TurnFormat(head.removesuffix(opening), (opening, plain), answer)


def _with_system(form: TurnFormat, text: str) -> TurnFormat:
    """The format with a system turn of its own before the first user's turn."""
    before, _, rest = text.partition(SYSTEM)
    after = rest.partition(FIRST)[0].removesuffix(form.user[0])
    return replace(form, system=(before, after))


def _with_system_inside(form: TurnFormat, text: str) -> TurnFormat:
    """The format with the system's text inside the first user's turn."""
    before, _, rest = text.partition(SYSTEM)
    inside = (before.removeprefix(form.start + form.user[0]), rest.partition(FIRST)[0])
    return replace(form, system=inside, is_inside=True)


def _is_writable(form: TurnFormat) -> bool:
    """Whether nothing in a format has a meaning in Ollama's own language."""
    pieces = (form.start, *form.user, *form.answer, *(form.system or ()))
    marks = ("{{", "}}", '"""')
    return not any(mark in piece for mark in marks for piece in pieces)


def _common_end(one: str, other: str) -> str:
    count = 0
    while count < min(len(one), len(other)) and one[-1 - count] == other[-1 - count]:
        count += 1
    return one[len(one) - count :]
