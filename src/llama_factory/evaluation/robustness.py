"""The same rows asked worse: typing mistakes, loose punctuation, other order, distraction."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Literal

from llama_factory.core.types import Example
from llama_factory.data.augment import AUGMENTATIONS
from llama_factory.data.augment.variants import augment_example, rng_of
from llama_factory.evaluation.answered import TaskRow
from llama_factory.text.words import HAN

Noise = Literal["typos", "homophones", "punctuation", "options", "distraction"]

DISTRACTIONS = {
    "en": (
        "By the way, it has been raining here since Tuesday.",
        "My neighbour has just bought a green bicycle.",
        "I am writing this on the train, which is late again.",
        "Yesterday we had soup, and the day before as well.",
    ),
    "zh": (
        "顺便说一句，这里从星期二起一直在下雨。",
        "我的邻居刚买了一辆绿色的自行车。",
        "我是在火车上写的，火车又晚点了。",
        "昨天我们喝了汤，前天也是。",
    ),
}
_HAN = re.compile(f"[{HAN}]")
_LIST = re.compile(r"^(?P<head>\s*(?:options?|choices|选项)\s*[:：]\s*)(?P<body>.+)$", re.I | re.M)
_SEPARATOR = re.compile(r"\s*[,，、;；/|]\s*")
_LETTERED = re.compile(r"^(?P<mark>\s*\(?(?P<letter>[A-Ha-h])[.)、．:：]\s*)(?P<body>\S.*)$", re.M)
_LETTER = re.compile(r"^\s*\(?(?P<letter>[A-Ha-h])(?=[.)、．:：]|\s*$)")


@dataclass(frozen=True)
class NoisyRow:
    """A row asked worse: its place among the clean rows, and the row."""

    place: int
    row: TaskRow


def noisy(rows: Sequence[TaskRow], noise: Noise, *, rate: float, seed: int = 0) -> list[NoisyRow]:
    """The rows that a kind of noise changes, changed; what is expected means the same.

    Args:
        rows: of one task.
        noise: which kind.
        rate: share of letters or marks that typing noise changes.
        seed: same seed and rows, same noise.
    """
    found = []
    for place, row in enumerate(rows):
        changed = _NOISES[noise](row.example, rate, seed)
        if changed is not None and changed.messages != row.example.messages:
            found.append(NoisyRow(place, replace(row, example=changed)))
    return found


def _typos(example: Example, rate: float, seed: int) -> Example | None:
    return None if _is_chinese(example) else _augmented(example, "typo", rate, seed)


def _homophones(example: Example, rate: float, seed: int) -> Example | None:
    return _augmented(example, "typo", rate, seed) if _is_chinese(example) else None


def _punctuation(example: Example, rate: float, seed: int) -> Example | None:
    # there are far fewer marks than letters, so the same rate would change next to nothing
    return _augmented(example, "punctuation", min(1.0, 5 * rate), seed)


def _augmented(example: Example, method: str, rate: float, seed: int) -> Example | None:
    if example.is_text:
        return None
    part = AUGMENTATIONS.parse({"type": method, "rate": rate})
    return augment_example(example, part, seed=seed)


def _distraction(example: Example, rate: float, seed: int) -> Example | None:
    """A sentence that has nothing to do with it comes before the question."""
    if example.is_text:
        return None
    known = DISTRACTIONS["zh" if _is_chinese(example) else "en"]
    sentence = _rng(example, "distraction", seed).choice(known)
    space = "" if _is_chinese(example) else " "
    return _with_question(example, f"{sentence}{space}{example.prompt[-1].content}")


def _options(example: Example, rate: float, seed: int) -> Example | None:
    """Options in another order; an expected letter follows its option."""
    if example.is_text:
        return None
    rng, question = _rng(example, "options", seed), example.prompt[-1].content
    if len(_LETTERED.findall(question)) > 1:
        return _reordered_letters(example, question, rng)
    listed = _LIST.search(question)
    if listed is None:
        return None
    options = [each for each in _SEPARATOR.split(listed["body"]) if each]
    separator = _SEPARATOR.search(listed["body"])
    mixed = _mixed(options, rng)
    body = (separator[0] if separator else ", ").join(mixed)
    return _with_question(
        example, question[: listed.start("body")] + body + question[listed.end("body") :]
    )


def _reordered_letters(example: Example, question: str, rng: Random) -> Example | None:
    """The texts behind A, B, C ... change places; None where the answer's letter is not one."""
    found = list(_LETTERED.finditer(question))
    texts = [match["body"].rstrip() for match in found]
    letters = [match["letter"] for match in found]
    mixed = _mixed(texts, rng)
    places = map(mixed.index, texts)
    moved = {letter: letters[place] for letter, place in zip(letters, places, strict=True)}
    answer = _LETTER.match(example.answer)
    if len(set(texts)) < len(texts) or (answer and answer["letter"] not in moved):
        return None
    lines = iter(mixed)
    asked = _LETTERED.sub(lambda match: match["mark"] + next(lines), question)
    changed = _with_question(example, asked)
    if not answer:
        return changed
    start, end = answer.span("letter")
    text = example.answer[:start] + moved[answer["letter"]] + example.answer[end:]
    last = replace(changed.messages[-1], content=text)
    return replace(changed, messages=(*changed.messages[:-1], last))


def _mixed(options: Sequence[str], rng: Random) -> list[str]:
    """The options in another order, wherever there is one."""
    shift = rng.randrange(1, len(options)) if len(options) > 1 else 0
    return [*options[shift:], *options[:shift]]


def _with_question(example: Example, question: str) -> Example:
    *before, asked, answer = example.messages
    return replace(example, messages=(*before, replace(asked, content=question), answer))


def _rng(example: Example, noise: str, seed: int) -> Random:
    return rng_of((str(seed), noise, example.key))


def _is_chinese(example: Example) -> bool:
    return bool(_HAN.search(example.prompt[-1].content))


_NOISES: dict[Noise, Callable[[Example, float, int], Example | None]] = {
    "typos": _typos,
    "homophones": _homophones,
    "punctuation": _punctuation,
    "options": _options,
    "distraction": _distraction,
}
