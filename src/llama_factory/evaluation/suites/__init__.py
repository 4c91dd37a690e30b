"""What can be measured of a model in one go; one file each. Suites hold settings only."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from llama_factory.core.progress import Progress
from llama_factory.core.settings import Registry, Settings, import_parts
from llama_factory.core.types import Task
from llama_factory.evaluation.exam import Exam, file_name
from llama_factory.evaluation.marks import Marks, TaskResult, judge
from llama_factory.evaluation.settings import EvaluationSettings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llama_factory.model.adapted import AdaptedModel


@dataclass(frozen=True)
class Bench:
    """A model on which suites are run.

    Attributes:
        model: in eval mode, with its adapter on.
        model_id: identifies the weights.
        tasks: held-out rows of all rounds that the model was taught; empty outside a workspace.
        settings: metrics and limits where a suite names none.
        folder: predictions are written here as they come.
        progress: shows how far it is.
    """

    model: "AdaptedModel"
    model_id: str
    tasks: tuple[Task, ...]
    settings: EvaluationSettings
    folder: Path
    progress: Progress

    def put(self, exams: "Sequence[Exam]", title: str) -> list[Marks]:
        """Ask and judge; what an earlier run has answered is not asked again."""
        from llama_factory.evaluation.asking import put_resumable

        for exam in exams:
            exam.check()
        total = sum(len(exam.rows) for exam in exams)
        marks = []
        with self.progress.bar(title, total) as bar:
            for exam in exams:
                path = self.folder / title / file_name(exam.name)
                made = put_resumable(self.model, exam, path, model_id=self.model_id, bar=bar)
                marks.append(judge(exam, made))
        return marks


class Suite(Settings):
    """Something that is measured of a model."""

    def check(self, tasks: tuple[Task, ...]) -> None:
        """Refuse what cannot be measured, before a model is loaded.

        Args:
            tasks: held-out rows of all rounds that the model was taught.

        Raises:
            FactoryError: with the reason.
        """

    def measure(self, bench: Bench) -> list[TaskResult]:
        """Measure a model; one result a task."""
        raise NotImplementedError


SUITES: Registry[Suite] = Registry("suite")
import_parts(__name__, __path__)
