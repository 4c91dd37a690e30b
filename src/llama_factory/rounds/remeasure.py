"""The released version on its held-out rows today, and how likely the rows that wait are to it."""

from collections.abc import Sequence
from dataclasses import replace

from llama_factory.core.progress import Progress
from llama_factory.core.types import Example, Task
from llama_factory.evaluation.task_rows import Prediction
from llama_factory.model.adapted import AdaptedModel, asked_as_taught
from llama_factory.model.chat.encoding import encode_options
from llama_factory.model.saved import of_version
from llama_factory.monitoring.inputs import examples_below
from llama_factory.rounds.measure import Tester
from llama_factory.rounds.settings import LearningConfig
from llama_factory.versions import releases, store
from llama_factory.versions.version import ModelVersion
from llama_factory.versions.workspace import Workspace

MOST_WAITING = 200
"""Waiting rows of which the likelihood is measured."""


def open_version(version: ModelVersion, config: LearningConfig) -> AdaptedModel:
    """A version's model, asked as it was taught."""
    adapters = (version.adapter,) if version.adapter else ()
    whole = of_version(config.model, adapters, version.base_fingerprint)
    return asked_as_taught(whole.open(encode_options(config.data)), version.adapter)


def measure_production(
    workspace: Workspace, config: LearningConfig, progress: Progress
) -> tuple[list[Prediction], list[Prediction]]:
    """The released version's answers to all its held-out rows, and to the rows that wait.

    The latter are measured by their likelihood; their answers are cut after one token.
    """
    version = store.get(workspace, releases.PRODUCTION)
    model = open_version(version, config)
    now = Tester(config, progress).answer(model, store.tasks(version), version.id)
    waiting = _spread(examples_below(workspace.inbox))
    short = config.model_copy(
        update={"evaluation": config.evaluation.model_copy(update={"max_new_tokens": 1})}
    )
    tasks = [Task("waiting", "inbox", tuple(waiting))] if waiting else []
    losses = Tester(short, progress).answer(model, tasks, f"{version.id} on rows that wait")
    return now, losses


def _spread(rows: Sequence[Example]) -> list[Example]:
    step = max(1, -(-len(rows) // MOST_WAITING))
    return [replace(row, group="inbox") for row in rows[::step]]
