"""Rounds: the held-out rows of every round that a model was taught."""

from llama_factory.core.errors import ConfigError
from llama_factory.core.types import Task
from llama_factory.evaluation.scoring import TaskResult
from llama_factory.evaluation.suites import SUITES, Bench, Suite
from llama_factory.evaluation.tasks import EvalTask


@SUITES.register("rounds")
class Rounds(Suite):
    """What is left of everything that was taught."""

    def check(self, tasks: tuple[Task, ...]) -> None:
        """See `Suite.check`."""
        require_tasks(tasks, "rounds")

    def measure(self, bench: Bench) -> list[TaskResult]:
        """See `Suite.measure`."""
        tasks = [EvalTask.from_task(task, bench.settings) for task in bench.tasks]
        return [scored.result for scored in bench.score(tasks, "rounds")]


def require_tasks(tasks: tuple[Task, ...], suite: str) -> None:
    """Refuse a suite over held-out rows where there are none.

    Raises:
        ConfigError: with what to do instead.
    """
    if not tasks:
        raise ConfigError(
            f"suite '{suite}': this model was taught no round with held-out rows. Name a version "
            "of a workspace that has learned, or give a suite file with tasks of your own."
        )
