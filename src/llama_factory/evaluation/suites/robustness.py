"""Robustness: the fraction of a score that is kept when the same rows are asked with noise.

Noise: typing mistakes, loose punctuation, options in another order, a distracting sentence.
"""

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Literal

from pydantic import Field

from llama_factory.core.types import Example, Task
from llama_factory.data.augment import AUGMENTATIONS
from llama_factory.data.augment.variants import augment_example, rng_of
from llama_factory.evaluation import statistics
from llama_factory.evaluation.metrics import Metric
from llama_factory.evaluation.scoring import ScoredTask, TaskResult, higher_is_better, is_mean
from llama_factory.evaluation.statistics import Estimate
from llama_factory.evaluation.suites import SUITES, Bench, Suite
from llama_factory.evaluation.suites.rounds import require_tasks
from llama_factory.evaluation.task_rows import TaskRow
from llama_factory.evaluation.tasks import EvalTask
from llama_factory.text.words import HAN

Noise = Literal["typos", "homophones", "punctuation", "options", "distraction"]
ALL: tuple[Noise, ...] = ("typos", "homophones", "punctuation", "options", "distraction")

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


@SUITES.register("robustness")
class Robustness(Suite):
    """Score kept under typing mistakes, loose punctuation, other order, distraction."""

    noises: list[Noise] = list(ALL)
    """Ways of asking worse. Each asks all rows that it changes once more."""
    rate: float = Field(0.05, gt=0, le=1)
    """Share of letters that are mistyped. Higher is harder to read."""

    def check(self, tasks: tuple[Task, ...]) -> None:
        """See `Suite.check`."""
        require_tasks(tasks, "robustness")

    def measure(self, bench: Bench) -> list[TaskResult]:
        """See `Suite.measure`."""
        tasks = [EvalTask.from_task(task, bench.settings) for task in bench.tasks]
        results = (
            measure_noise(bench, task, self.noises, rate=self.rate, title="robustness")
            for task in tasks
        )
        return [each for result in results for each in result]


def measure_noise(
    bench: Bench, task: EvalTask, noises: Sequence[Noise], *, rate: float, title: str
) -> list[TaskResult]:
    """A task's scores without noise and under each kind, with the fraction kept of the former.

    Args:
        bench: the model.
        task: the clean task.
        noises: kinds of noise; those that change no row are left out.
        rate: fraction of letters that are mistyped.
        title: of the suite.
    """
    changed = {noise: noisy(task.rows, noise, rate=rate) for noise in noises}
    changed = {noise: rows for noise, rows in changed.items() if rows}
    tasks = [
        replace(task, name=f"{task.name} + {noise}", rows=tuple(each.row for each in rows))
        for noise, rows in changed.items()
    ]
    clean, *scored = bench.score([task, *tasks], title)
    pairs = zip(scored, changed.values(), strict=True)
    return [clean.result, *(_result(clean, each, rows) for each, rows in pairs)]


def _result(clean: ScoredTask, scored: ScoredTask, rows: Sequence["NoisyRow"]) -> TaskResult:
    result = scored.result
    places = [each.place for each in rows]
    kept = {
        f"{metric.label} kept": _kept(clean, scored, places, metric)
        for metric in scored.task.metrics
        if is_mean(metric.label) and higher_is_better(metric.label)
    }
    # a score of 0 without noise leaves nothing to keep
    known = {name: kept[name] for name in kept if not math.isnan(kept[name].value)}
    return replace(result, scores={**result.scores, **known})


def _kept(clean: ScoredTask, scored: ScoredTask, places: Sequence[int], metric: Metric) -> Estimate:
    """Noisy score over clean score on the rows that the noise changed; NaN where both are 0."""
    before = [clean.predictions[place].scores[metric.label] for place in places]
    after = [prediction.scores[metric.label] for prediction in scored.predictions]
    return statistics.ratio(after, before)


@dataclass(frozen=True)
class NoisyRow:
    """A row with noise, and its place among the clean rows."""

    place: int
    row: TaskRow


def noisy(rows: Sequence[TaskRow], noise: Noise, *, rate: float, seed: int = 0) -> list[NoisyRow]:
    """The rows that a kind of noise changes, changed; what is expected means the same.

    Args:
        rows: of one task.
        noise: which kind.
        rate: fraction of letters or marks that typing noise changes.
        seed: same seed and rows, same noise.
    """
    changed_rows = []
    for place, row in enumerate(rows):
        changed = _NOISES[noise](row.example, rate, seed)
        if changed is not None and changed.messages != row.example.messages:
            changed_rows.append(NoisyRow(place, replace(row, example=changed)))
    return changed_rows


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
    matches = list(_LETTERED.finditer(question))
    texts = [match["body"].rstrip() for match in matches]
    letters = [match["letter"] for match in matches]
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
