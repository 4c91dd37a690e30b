"""Our trained tokens on models' real chat templates, beside marks that others put into them.

TRL ships the templates of well-known models and, for training, copies in which the assistant's
tokens are marked by hand. We read the real ones without marks. Usage: template_masks.py
--trl SITE_PACKAGES/trl/chat_templates [--data FOLDER] [--rows 20] [--quick] [--out FILE]
"""

import argparse
import json
import re
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
import common

from llama_factory.core.errors import ModelError
from llama_factory.core.types import Example, Message, ToolCall

PICTURES = ("vl", "vlm", "idefics", "llava")
"""In the names of templates that want pictures."""

SPECIAL = re.compile(
    r"<\|[^|<>\s']+\|>|<｜[^｜]+｜>|</?[a-z]+(?:_[a-z]+)*>|\[/?[A-Z_]+\]|\[gMASK\]"
)
"""What templates write that is one token in their models' vocabularies."""

EQUAL = "equal"
BUT_BREAKS = "equal but for line breaks"
BUT_TEXT_END = "equal but for a token that ends the text"
BUT_PROMPT = "equal but for what the question already holds"
"""Theirs also train tokens that we take from the generation prompt, which ends every question."""

TOOLS = json.dumps([{"type": "function", "function": {
    "name": "weather",
    "description": "The weather of a city.",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
}}])  # fmt: skip


def talk(*turns: tuple[str, str], tools: str = "") -> Example:
    """A conversation from (role, content) pairs; the role `call` is a tool call."""
    messages = [
        Message("assistant", "", tool_calls=(ToolCall("weather", content),))
        if role == "call"
        else Message(role, content)
        for role, content in turns
    ]
    return Example(tuple(messages), "g", "built in", 1, tools=tools)


BUILT_IN = (
    talk(("user", "Hi, who are you?"), ("assistant", "A language model.")),
    talk(("user", "你好，你是谁？"), ("assistant", "我是一个语言模型。")),
    talk(("user", "Hi"), ("assistant", "Hello!"), ("user", "And now?"), ("assistant", "Still.\n")),
    talk(("user", "一加一"), ("assistant", "等于二。"), ("user", "再加一"), ("assistant", "三。")),
    talk(("system", "Be brief."), ("user", "Why?"), ("assistant", "Because.")),
    talk(("system", "请简短回答。"), ("user", "为什么？"), ("assistant", "因为如此。")),
    talk(
        ("user", "北京天气怎么样？"),
        ("call", '{"city": "北京"}'),
        ("tool", '{"sky": "晴"}'),
        ("assistant", "北京今天晴。"),
        tools=TOOLS,
    ),
)


@dataclass(frozen=True)
class Verdict:
    """How one conversation compares: the kind of result and the tokens trained by either side."""

    kind: str
    ours: int = 0
    theirs: int = 0
    detail: str = ""


def main() -> None:
    """Compare every pair of templates on every conversation."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trl", type=Path, required=True, help="trl/chat_templates")
    parser.add_argument("--data", type=Path, help="folder with rows in any format we read")
    parser.add_argument("--rows", type=int, default=20, help="rows taken from each file")
    parser.add_argument("--quick", action="store_true", help="the built-in conversations only")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    rows = list(BUILT_IN)
    if options.data and not options.quick:
        rows += read_rows(options.data, options.rows)
    report(compare_all(options.trl, rows), options.out)


def read_rows(folder: Path, most: int) -> list[Example]:
    """The first conversations of each file."""
    from llama_factory.data.reading import read_examples

    rows: list[Example] = []
    for path in sorted(folder.glob("*.json")):
        if path.name in ("dataset_info.json", "mllm_demo.json"):
            continue
        found = (row for row in read_examples(path) if isinstance(row, Example))
        rows += islice((row for row in found if not row.is_text), most)
    return rows


def compare_all(folder: Path, rows: Sequence[Example]) -> dict[str, list[Verdict]]:
    """Verdicts by template; one that was not compared has a single verdict `skipped`."""
    found = {}
    for marked in sorted(folder.glob("*_training.jinja")):
        name = marked.name.removesuffix("_training.jinja")
        if any(word in name for word in PICTURES):
            found[name] = [Verdict("skipped", detail="needs pictures")]
            continue
        real = (folder / f"{name}.jinja").read_text(encoding="utf-8")
        found[name] = list(compare(real, marked.read_text(encoding="utf-8"), rows))
    return found


def compare(real: str, marked: str, rows: Sequence[Example]) -> Iterator[Verdict]:
    """One template on every conversation."""
    tokenizer = make_tokenizer(real + marked)
    for row in rows:
        try:
            yield compare_row(tokenizer, real, marked, row)
        except ModelError as error:
            detail = re.sub(r".*\(first at", "first at", str(error)).partition("), so")[0]
            yield Verdict("refused by ours", detail=detail)


def compare_row(tokenizer: Any, real: str, marked: str, row: Example) -> Verdict:
    """Our mask on the real template and the marked template's own, token by token."""
    from llama_factory.model.chat.encoding import EncodeOptions, Unfit, encode
    from llama_factory.model.chat.masks import write
    from llama_factory.model.chat.prompt_format import PromptFormat
    from llama_factory.model.chat.template import REFUSALS, Renderer

    tokenizer.chat_template = real
    ours = encode(row, tokenizer, EncodeOptions(max_tokens=10**6))
    if isinstance(ours, Unfit):
        return Verdict("refused by the template", detail=ours.reason.rpartition(": ")[2])
    tokens = write(row, Renderer(tokenizer, row.tools)).tokens
    try:
        text, spans = Renderer(tokenizer, row.tools, PromptFormat(template=marked)).marked(
            row.messages
        )
    except REFUSALS as error:
        return Verdict("refused by theirs", detail=str(error))
    if text != tokens.text:
        return Verdict("renders otherwise", ours.num_trained)
    theirs = {place for span in spans for place in tokens.covered(span)}
    mask = [place in theirs for place in range(len(tokens.ids))]
    return judge(tokenizer, list(tokens.ids), list(ours.is_trained), mask)


def judge(tokenizer: Any, ids: list[int], ours: list[bool], theirs: list[bool]) -> Verdict:
    """Equal or not, and what one side trains that the other does not."""
    ours = ours[: len(ids)] + [False] * (len(ids) - len(ours))
    after = [ids[i] for i in range(len(ids)) if ours[i] and not theirs[i]]
    extra = [i for i in range(len(ids)) if theirs[i] and not ours[i]]
    head = {i for i in extra if leads_to_ours(i, ours, theirs)}
    rest = [i for i in extra if i not in head]
    counts = (sum(ours), sum(theirs))
    ends = ("", tokenizer.eos_token)
    is_tail = all(tokenizer.decode([ids[i]]).strip() in ends for i in rest)
    is_break = all(not tokenizer.decode([ids[i]]).strip() for i in extra)
    parts = [("they also train", [ids[i] for i in extra]), ("we also train", after)]
    detail = "; ".join(f"{who} {shown(tokenizer, tokens)}" for who, tokens in parts if tokens)
    if not after and not extra:
        return Verdict(EQUAL, *counts)
    if after or not is_tail:
        return Verdict("different", *counts, detail)
    kind = BUT_BREAKS if is_break else BUT_PROMPT if head else BUT_TEXT_END
    return Verdict(kind, *counts, detail)


def leads_to_ours(place: int, ours: Sequence[bool], theirs: Sequence[bool]) -> bool:
    """Whether only tokens of theirs stand between a place and the next token that we train."""
    following = next((i for i in range(place, len(ours)) if ours[i]), None)
    return following is not None and all(theirs[place:following])


def shown(tokenizer: Any, ids: Sequence[int]) -> str:
    """The most frequent tokens of a list."""
    counted = Counter(tokenizer.decode([i]) for i in ids).most_common(4)
    return ", ".join(f"{count} x {token!r}" for token, count in counted)


def make_tokenizer(template: str) -> Any:
    """The embedded model's tokenizer with a template's special tokens in its vocabulary."""
    from llama_factory.model.base import load_tokenizer
    from llama_factory.model.source import resolve_tokenizer

    tokenizer = load_tokenizer(resolve_tokenizer("smollm2"))
    pieces = sorted(set(SPECIAL.findall(template)) - set(tokenizer.get_vocab()))
    tokenizer.add_special_tokens({"additional_special_tokens": pieces})
    return tokenizer


def report(found: dict[str, list[Verdict]], out: Path | None) -> None:
    """One line a template."""
    table, runs = [], []
    for name, verdicts in found.items():
        kinds = Counter(verdict.kind for verdict in verdicts)
        compared = [v for v in verdicts if v.ours]
        row = {
            "template": name,
            "rows": len(verdicts),
            "ours": sum(v.ours for v in compared),
            "theirs": sum(v.theirs for v in compared),
            "kinds": dict(kinds),
            "differences": dict(Counter(v.detail for v in verdicts if v.detail).most_common(3)),
        }
        runs.append(row)
        kinds_shown = ", ".join(f"{count} {kind}" for kind, count in kinds.items())
        first = next(iter(row["differences"]), "").replace("|", "¦").replace("\n", "\\n")
        table.append([name, row["rows"], row["ours"], row["theirs"], kinds_shown, first[:120]])
    columns = ["template", "rows", "trained tokens, ours", "theirs", "result", "most common detail"]
    common.print_table("Trained tokens on real chat templates", columns, table)
    common.write_results(out, {"runs": runs})


if __name__ == "__main__":
    main()
