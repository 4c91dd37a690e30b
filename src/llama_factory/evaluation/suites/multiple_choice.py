"""Multiple choice: questions with four answers by subject, from files on this machine."""

from collections import defaultdict
from dataclasses import asdict
from pathlib import Path
from typing import Literal

from pydantic import Field

from llama_factory.core import files
from llama_factory.core.types import Example, Message, Task
from llama_factory.evaluation.choice_files import LETTERS, LetteredQuestion, Subject, read_subjects
from llama_factory.evaluation.metrics.label_likelihood import LabelLikelihood
from llama_factory.evaluation.scoring import TaskResult, estimate
from llama_factory.evaluation.suites import SUITES, Bench, Suite
from llama_factory.evaluation.task_rows import ScoredRow, TaskRow
from llama_factory.evaluation.tasks import file_name

BEGINNINGS = {
    "en": "The following are multiple choice questions (with answers) about {title}.\n\n",
    "zh": "以下是中国关于{title}考试的单项选择题，请选出其中的正确答案。\n\n",
}
ENDS = {"en": "Answer:", "zh": "答案："}
NAME = "multiple_choice"
ALL = "all subjects"


@SUITES.register(NAME)
class MultipleChoice(Suite):
    """How often the right letter is the likeliest, by subject, by category and of all questions."""

    folder: Path
    """Folder with files of questions, as MMLU, CMMLU and C-Eval are given out: `test/NAME.csv`,
    `dev/NAME.csv`."""
    split: Literal["test", "validation", "train"] = "test"
    """Which questions are asked."""
    language: Literal["en", "zh"] = "en"
    """Of the sentences around the questions."""
    examples: int = Field(5, ge=0)
    """Solved questions of the subject before each question. Higher shows the form better and takes
    longer."""
    number: int | None = Field(None, ge=1)
    """Most questions of each subject, the first ones. Empty: all of them."""

    def check(self, tasks: tuple[Task, ...]) -> None:
        """See `Suite.check`; every file is read once."""
        read_subjects(self.folder, self.split)

    def measure(self, bench: Bench) -> list[TaskResult]:
        """See `Suite.measure`; the letters of each subject are kept in a file."""
        subjects = read_subjects(self.folder, self.split)
        found = {}
        with bench.progress.bar(NAME, len(subjects)) as bar:
            for subject in subjects:
                found[subject.name] = self._score(bench, subject)
                bar.advance(1)
        groups: defaultdict[str, list[ScoredRow]] = defaultdict(list)
        for subject in subjects:
            for name in filter(None, (subject.category, ALL)):
                groups[name] += found[subject.name]
        found |= dict(sorted(groups.items()))
        return [_result(name, rows) for name, rows in found.items()]

    def _score(self, bench: Bench, subject: Subject) -> list[ScoredRow]:
        rows = [self._row(subject, each) for each in subject.asked[: self.number]]
        batch_tokens = bench.settings.batch_tokens
        scored = LabelLikelihood().measure(bench.model, rows, batch_tokens=batch_tokens)
        kept = ({"row": row.place, **asdict(each)} for row, each in zip(rows, scored, strict=True))
        files.write_jsonl(bench.folder / NAME / file_name(subject.name), kept)
        return scored

    def _row(self, subject: Subject, question: LetteredQuestion) -> TaskRow:
        """A question after the solved ones, as a conversation."""
        turns: list[Message] = []
        for each in (*subject.shown[: self.examples], question):
            turns += [Message("user", self._asked(each)), Message("assistant", each.answer)]
        first = BEGINNINGS[self.language].format(title=subject.title) + turns[0].content
        turns[0] = Message("user", first)
        example = Example(tuple(turns), subject.name, question.file, question.line)
        return TaskRow(example, LETTERS)

    def _asked(self, question: LetteredQuestion) -> str:
        options = [f"{letter}. {text}" for letter, text in question.options.items()]
        return "\n".join([question.text, *options, ENDS[self.language]])


def _result(name: str, rows: list[ScoredRow]) -> TaskResult:
    return TaskResult(name, len(rows), {"accuracy": estimate(LabelLikelihood(), rows)})
