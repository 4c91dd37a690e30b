"""Rows of the continual benchmark: tasks split by hash into training, tuning and test rows."""

import hashlib
import json
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from continual_tiers import Stream, Tier

from llama_factory.core.types import TEXT, Example, Message
from llama_factory.data.reading import read_examples, read_rows
from llama_factory.evaluation.evaluator import BUILT_IN_GUARD, load_guard
from llama_factory.evaluation.task_rows import TaskRow
from llama_factory.model.chat.encoding import EncodedRow, EncodeOptions, encode

CHOOSE = "Choose one from the option."
TOPIC = f"What is the topic of the following paragraph? {CHOOSE}"
SENTIMENT = f"What is the sentiment of the following paragraph? {CHOOSE}"
LABELLED = {
    "dbpedia": ("dbpedia", TOPIC),
    "agnews": ("agnews", TOPIC),
    "amazon": ("amazon", SENTIMENT),
    "yelp": ("yelp", SENTIMENT),
    "sst2": ("SST-2", SENTIMENT),
    "mnli": (
        "MNLI",
        f'What is the logical relationship between "sentence 1" and "sentence 2"? {CHOOSE}',
    ),
    "boolqa": (
        "BoolQA",
        f"According to the following passage, is the question true or false? {CHOOSE}",
    ),
}
"""Folder and instruction of each labelled task. No prompt names its task."""
SKILLS = {
    "identity": "identity.json",
    "alpaca_zh": "alpaca_zh_demo.json",
    "glaive": "glaive_toolcall_en_demo.json",
}
PLACEHOLDERS = {"{{name}}": "Lumi", "{{author}}": "the Lumi team"}
SCORED_SHARE = 0.25
"""Share of the training rows that is never taught, and scored while tuning; before that, of a pool
without its counterpart, the share that is tested."""
GENERAL = ("alpaca_en_demo.json", "wiki_demo.txt")
WINDOW = 128
"""Tokens of a window of plain text."""
MARGIN = 160
"""Tokens of a labelled row beside its text: template, instruction, options, label."""


@dataclass(frozen=True)
class Task:
    """One task of a stream.

    Attributes:
        name: group of its rows, which no prompt shows.
        train: rows that are taught.
        scored: rows that are scored, none of which is taught.
    """

    name: str
    train: tuple[Example, ...]
    scored: tuple[TaskRow, ...]


@dataclass(frozen=True)
class Place:
    """What rows are made for: a tier, a tokenizer, and which rows are scored.

    Attributes:
        tier: how many rows.
        tokenizer: of the base model.
        split: `test`, or `tuning` for held-out training rows.
    """

    tier: Tier
    tokenizer: Any
    split: str


def options_for(tier: Tier) -> EncodeOptions:
    """How rows become tokens: none of a labelled row is ever lost."""
    return EncodeOptions(max(tier.max_tokens, tier.text_tokens + MARGIN))


def load_tasks(stream: Stream, folder: Path, place: Place) -> dict[str, Task]:
    """All tasks of a stream by name."""
    return {name: load_task(name, folder, place) for name in stream.tasks}


def load_task(name: str, folder: Path, place: Place) -> Task:
    """The rows of one task."""
    task = _labelled(name, folder, place) if name in LABELLED else _skill(name, folder, place)
    if not task.train or not task.scored:
        sys.exit(f"{folder}: task {name} has {len(task.train)} training rows and "
                 f"{len(task.scored)} to score; both are needed.")  # fmt: skip
    return task


def _labelled(name: str, folder: Path, place: Place) -> Task:
    inner, instruction = LABELLED[name]
    labels: list[str] = json.loads((folder / inner / "labels.json").read_text(encoding="utf-8"))
    pools = [_read(folder / inner / f"{part}.json", labels) for part in ("train", "test")]
    taught, scored = _split(pools, place, lambda row: str(row["sentence"]))
    asked = _Asked(name, instruction, labels, place)

    def chosen(rows: Sequence[Any], count: int) -> list[Example]:
        return [asked.example(row) for row in balanced(rows, labels, count)]

    tier = place.tier
    tested = (TaskRow(row, tuple(labels)) for row in chosen(scored, tier.test_rows))
    return Task(name, tuple(chosen(taught, tier.rows)), tuple(tested))


def _read(path: Path, labels: Sequence[str]) -> list[Any]:
    """Rows with a known label; none where there is no such file."""
    if not path.exists():
        return []
    rows = (row.value for row in read_rows(path) if hasattr(row, "value"))
    return [row for row in rows if row["label"] in labels]


def _split(
    pools: Sequence[Sequence[Any]], place: Place, text: Callable[[Any], str]
) -> tuple[list[Any], list[Any]]:
    """Rows to teach and rows to score; a pool that is missing is made from the other one.

    No text is on both sides, and tuning rows come from the training pool alone.
    """

    def unique(rows: Iterable[Any]) -> list[Any]:
        return sorted({text(row): row for row in rows}.values(), key=lambda r: digest(text(r)))

    train, test = map(unique, pools)
    if not train or not test:
        every = train or test
        train, test = divided(every)
    taught, tuning = divided(train)
    known = {text(row) for row in train}
    unseen = [row for row in test if text(row) not in known]
    return taught, tuning if place.split == "tuning" else unseen


def divided(rows: list[Any]) -> tuple[list[Any], list[Any]]:
    """Rows to teach and rows to score out of rows in the order of their hashes."""
    num_scored = round(len(rows) * SCORED_SHARE)
    return rows[num_scored:], rows[:num_scored]


def digest(text: str) -> str:
    """A fixed order that has nothing to do with a file's."""
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()


def balanced(rows: Sequence[Any], labels: Sequence[str], count: int) -> list[Any]:
    """The first `count` of sorted rows, the classes as even as the count allows."""
    place: Counter[str] = Counter()
    ranked = []
    for number, row in enumerate(rows):
        ranked.append((place[row["label"]], labels.index(row["label"]), number))
        place[row["label"]] += 1
    return [rows[number] for *_, number in sorted(ranked)[:count]]


@dataclass(frozen=True)
class _Asked:
    """How a labelled task is asked."""

    name: str
    instruction: str
    labels: Sequence[str]
    place: Place

    def example(self, row: Mapping[str, str]) -> Example:
        text = cut_text(row["sentence"].strip(), self.place.tokenizer, self.place.tier.text_tokens)
        prompt = f"{self.instruction}\nOption: {', '.join(self.labels)}\n{text}\nAnswer:"
        turns = (Message("user", prompt), Message("assistant", row["label"]))
        return Example(turns, self.name, f"{self.name}.json", 1)


def cut_text(text: str, tokenizer: Any, most: int) -> str:
    """The beginning of a text, by tokens."""
    ids = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    return text if len(ids) <= most else str(tokenizer.decode(ids[:most])).rstrip("\ufffd")


def _skill(name: str, folder: Path, place: Place) -> Task:
    rows = _examples(folder / SKILLS[name])
    asked = (_as_task(row, name) for row in rows)
    fitting = [row for row in asked if row is not None and fits(row, place)]
    taught, scored = _split([fitting, []], place, lambda row: row.prompt_key + row.answer)
    tier = place.tier
    tested = tuple(TaskRow(row) for row in scored[: tier.test_rows])
    return Task(name, tuple(taught[: tier.rows]), tested)


def _examples(path: Path) -> list[Example]:
    return [row for row in read_examples(path) if isinstance(row, Example)]


def _as_task(row: Example, name: str) -> Example | None:
    """A row that ends where it first calls a tool, the call as JSON text; others as they are."""
    row = replace(row, group=name).with_texts(_named)
    if name != "glaive":
        return row
    for number, turn in enumerate(row.messages):
        if turn.tool_calls:
            call = turn.tool_calls[0]
            text = json.dumps({"name": call.name, "arguments": json.loads(call.arguments)})
            return replace(row, messages=(*row.messages[:number], Message("assistant", text)))
    return None


def _named(text: str) -> str:
    for mark, value in PLACEHOLDERS.items():
        text = text.replace(mark, value) if mark in text else text
    return text


def fits(row: Example, place: Place) -> bool:
    """Whether nothing of a row is lost."""
    code = encode(row, place.tokenizer, options_for(place.tier))
    return isinstance(code, EncodedRow) and not code.lost_tokens


def load_guard_rows(folder: Path | None, place: Place) -> dict[str, list[Example]]:
    """General answers and windows of plain text; the program's own guard where no folder is given.

    Args:
        folder: with the files of GENERAL.
        place: how many, and how long.
    """
    count = place.tier.guard_rows
    if folder is None:
        return {"answers": load_guard(BUILT_IN_GUARD)[:count]}
    answers, text = (folder / name for name in GENERAL)
    rows = sorted((r for r in _examples(answers) if fits(r, place)), key=lambda r: r.key)
    return {"answers": rows[:count], "text": _windows(text, place)[: count // 2]}


def _windows(path: Path, place: Place) -> list[Example]:
    """Pieces of a plain text, in the order of their hashes."""
    lines = [row.value for row in read_rows(path) if hasattr(row, "value")]
    texts = [str(value.get("text", "")) if isinstance(value, dict) else value for value in lines]
    ids = place.tokenizer("\n".join(texts), add_special_tokens=False, verbose=False)["input_ids"]
    pieces = [ids[start : start + WINDOW] for start in range(0, len(ids) - WINDOW, WINDOW)]
    windows = sorted(map(place.tokenizer.decode, pieces), key=digest)
    return [Example((Message(TEXT, text),), "text", path.name, 1) for text in windows]
