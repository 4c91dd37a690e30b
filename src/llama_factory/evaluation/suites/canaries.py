"""Canaries: simple requests in English and Chinese that any healthy model handles.

They fail first when training has gone wrong: answers never end, are empty, repeat themselves, or no
longer keep the requested format.
"""

import re
from collections.abc import Callable, Sequence
from pathlib import Path

from pydantic import Field

from llama_factory.core import files
from llama_factory.core.types import Example, Message
from llama_factory.evaluation import statistics
from llama_factory.evaluation.metrics.token_f1 import TOKEN
from llama_factory.evaluation.scoring import TaskResult
from llama_factory.evaluation.suites import SUITES, Bench, Suite
from llama_factory.evaluation.task_rows import Prediction, TaskRow
from llama_factory.evaluation.tasks import EvalTask

BUILT_IN = Path(__file__).parent / "canaries.jsonl"
PHRASE = 3
"""Words, or Chinese characters, in a phrase."""
MIN_WORDS = 12
"""Shorter answers do not count as loops."""


@SUITES.register("canaries")
class Canaries(Suite):
    """Shares of answers that end by themselves, say something, keep the format, do not loop."""

    max_new_tokens: int = Field(128, ge=8)
    """An answer that has not ended by then counts as endless. All requests ask for less."""

    def measure(self, bench: Bench) -> list[TaskResult]:
        """See `Suite.measure`."""
        rows = list(files.read_jsonl(BUILT_IN))
        examples = [
            Example(
                (Message("user", row["prompt"]), Message("assistant", row["output"])),
                group="canaries",
                file=BUILT_IN.name,
                line=line,
            )
            for line, row in enumerate(rows, 1)
        ]
        task = EvalTask(
            name="canaries",
            rows=tuple(map(TaskRow, examples)),
            metrics=(),
            max_new_tokens=self.max_new_tokens,
            batch_tokens=bench.settings.batch_tokens,
        )
        (scored,) = bench.score([task], "canaries")
        return [check_answers(scored.predictions, [row.get("format", "") for row in rows])]


def check_answers(predictions: Sequence[Prediction], formats: Sequence[str]) -> TaskResult:
    """The fraction of answers that pass each check.

    Args:
        predictions: the answers.
        formats: for each, a regular expression that it must match; empty where none was asked.
    """
    formatted = [pair for pair in zip(predictions, formats, strict=True) if pair[1]]
    checks: dict[str, Callable[[Prediction], bool]] = {
        "terminates": lambda each: not each.is_cut,
        "not_empty": lambda each: bool(each.answer.strip()),
        "no_repetition": lambda each: not is_loop(each.answer),
    }
    scores = {
        name: statistics.proportion(sum(map(passes, predictions)), len(predictions))
        for name, passes in checks.items()
    }
    kept = sum(bool(re.search(wanted, each.answer)) for each, wanted in formatted)
    scores["format_kept"] = statistics.proportion(kept, len(formatted))
    return TaskResult("canaries", len(predictions), scores)


def is_loop(text: str) -> bool:
    """Whether more than half of an answer's phrases are repetitions."""
    words = TOKEN.findall(text.casefold())
    phrases = [tuple(words[i : i + PHRASE]) for i in range(len(words) - PHRASE + 1)]
    return len(words) >= MIN_WORDS and len(set(phrases)) < len(phrases) / 2
