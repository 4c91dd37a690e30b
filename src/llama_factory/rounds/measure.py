"""What a new version is judged against: its parent and the base model, under today's conditions.

What the parent's report holds is not measured again as long as it would come out the same.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from llama_factory.core import files
from llama_factory.core.progress import Progress
from llama_factory.core.types import EvalReport, Example, Task
from llama_factory.evaluation.complaints import tasks_of
from llama_factory.evaluation.drift import RowDrift, mean_divergence, write_row_drift
from llama_factory.evaluation.evaluator import (
    BUILT_IN_GUARD,
    answer_tasks,
    conditions_of,
    differences,
    evaluate,
    load_guard,
)
from llama_factory.evaluation.likelihood import drift_from_base
from llama_factory.evaluation.lineage_scores import BEFORE, COMPLAINTS, DRIFT, PREDICTIONS
from llama_factory.evaluation.task_rows import Prediction, read_predictions
from llama_factory.model.adapted import AdaptedModel, asked_as_taught
from llama_factory.model.saved import of_version
from llama_factory.model.wrapping import without_adapter
from llama_factory.rounds.draft import TESTING, Draft
from llama_factory.rounds.proving import write_proof
from llama_factory.rounds.settings import LearningConfig
from llama_factory.versions import store
from llama_factory.versions.version import ModelVersion


@dataclass(frozen=True)
class Baseline:
    """What a new version is judged against, all measured under the same conditions.

    Attributes:
        conditions: what the scores depend on.
        parent: its scores on all tasks, old and new.
        answers: the parent's, behind these scores.
        base: the base model's scores on the new tasks.
        base_guard: the base model's perplexity on the guard; NaN where there is none.
        on_complaints: the parent's answers to all complaints of the lineage and of this round.
    """

    conditions: dict[str, Any]
    parent: EvalReport
    answers: Sequence[Prediction]
    base: EvalReport
    base_guard: float
    on_complaints: Sequence[Prediction] = ()


@dataclass(frozen=True)
class Tester:
    """Scores models in one way.

    Attributes:
        config: the settings of the round.
        progress: shows how far it is.
        folder: where the answers of a test in progress lie, so that an interrupted one goes on;
            None keeps none.
    """

    config: LearningConfig
    progress: Progress
    folder: Path | None = None

    def score(
        self, model: AdaptedModel, tasks: Sequence[Task], what: str
    ) -> tuple[EvalReport, list[Prediction]]:
        """The scores of a model on tasks and on the guard, and the answers behind them."""
        return evaluate(
            model,
            tasks,
            self.config.evaluation,
            title=f"testing {what}",
            progress=self.progress,
            folder=self._folder_of(what),
        )

    def answer(self, model: AdaptedModel, tasks: Sequence[Task], what: str) -> list[Prediction]:
        """The answers of a model to tasks, each with its scores; the guard is left out."""
        if not tasks:
            return []
        return answer_tasks(
            model,
            tasks,
            self.config.evaluation,
            title=f"testing {what}",
            progress=self.progress,
            folder=self._folder_of(what),
        )

    def _folder_of(self, what: str) -> Path | None:
        return self.folder / TESTING / what.replace(" ", "-") if self.folder else None


def measure_before_round(
    draft: Draft, model: AdaptedModel, config: LearningConfig, progress: Progress
) -> Baseline:
    """Score the parent on all tasks and the base model on the new ones.

    Of the old tasks only those that lost questions are measured again, unless all scores would come
    out otherwise today. An interrupted round goes on with what it has measured.
    """
    tester, parent = Tester(config, progress, draft.folder), draft.parent
    conditions = conditions_of(model, config.evaluation)
    stale = [] if parent.is_base else differences(parent.report.get("conditions"), conditions)
    before = _score_parent(draft, model, tester, conditions, stale)
    if parent.is_base:
        base, guard = before, before.guard_perplexity
    else:
        base = _score_base(draft, model, tester, conditions)
        guard = base.guard_perplexity if stale else parent.report["base_guard_perplexity"]
    places = parent.folder / PREDICTIONS, draft.folder / BEFORE
    answers = [answer for place in places for answer in read_predictions(place)]
    guard = math.nan if guard is None else guard
    complaints = _on_complaints(draft, model, tester, is_stale=bool(stale))
    return Baseline(conditions, before, answers, base, guard, complaints)


def _on_complaints(
    draft: Draft, model: AdaptedModel, tester: Tester, *, is_stale: bool
) -> list[Prediction]:
    """What the parent answers to all complaints; its own folder tells those it was asked before."""
    stored = [] if is_stale else read_predictions(draft.parent.folder / COMPLAINTS)
    known = {answer.key for answer in stored}
    new = [each for each in draft.complaints if each.row.key not in known]
    asked = asked_as_taught(model, draft.parent.adapter)
    what = f"{draft.parent.id} on complaints"
    return [*stored, *tester.answer(asked, tasks_of(new), what)]


def measure_before_consolidation(
    parent: ModelVersion, model: AdaptedModel, config: LearningConfig, progress: Progress
) -> Baseline:
    """What the parent's report holds, measured again where it would come out otherwise today."""
    conditions, report = conditions_of(model, config.evaluation), parent.report
    stale = differences(report.get("conditions"), conditions)
    if not stale:
        answers = read_predictions(parent.folder / PREDICTIONS)
        base = EvalReport({}, None, 0.0)
        return Baseline(conditions, parent.scores, answers, base, report["base_guard_perplexity"])
    progress.say(f"{parent.id} was tested in another way ({', '.join(stale)}): it is tested again.")
    assert parent.adapter is not None, "what is consolidated was taught"
    tester = Tester(config, progress)
    whole = of_version(config.model, (parent.adapter,), parent.base_fingerprint)
    before, answers = tester.score(whole.open(model.options), store.tasks(parent), parent.id)
    with base_model_of(model, config) as base_model:
        base, _ = tester.score(base_model, (), "the base model")
    return Baseline(conditions, before, answers, base, base.guard_perplexity or math.nan)


@contextmanager
def base_model_of(model: AdaptedModel, config: LearningConfig) -> Iterator[AdaptedModel]:
    """The base model for a while.

    It is the same network with its adapter switched off; where earlier updates were consolidated
    into the weights, it is read anew.
    """
    if model.merged:
        yield of_version(config.model, (), "").open(model.options)
        return
    with without_adapter(model.network):
        yield model


def base_network(model: AdaptedModel, config: LearningConfig) -> Any:
    """The base model's network; None where it is the model's own with its adapter switched off."""
    return of_version(config.model, (), "").open(model.options).network if model.merged else None


def measure_drift(model: AdaptedModel, config: LearningConfig, base: Any) -> list[RowDrift]:
    """How far a model has moved from its base on each general row.

    Args:
        model: the new version.
        config: the settings of the round.
        base: what `base_network` gave.
    """
    settings = config.evaluation
    general = load_guard(settings.guard or BUILT_IN_GUARD)
    return drift_from_base(model, general, batch_tokens=settings.batch_tokens, base=base)


def keep_comparison(
    model: AdaptedModel,
    folder: Path,
    drift: Sequence[RowDrift],
    base: Any,
    rows: Iterable[Example] = (),
) -> float | None:
    """Write how far a model has moved from its base on each general row, and its proof.

    Args:
        model: the new version.
        folder: of the version.
        drift: what `measure_drift` gave.
        base: what `base_network` gave.
        rows: of the round, which may be kept with the version; its proof prefers them.

    Returns:
        The mean divergence.
    """
    write_proof(model, rows, folder, base=base)
    return mean_divergence(write_row_drift(folder / DRIFT, drift))


def keep_scores(
    path: Path, report: EvalReport, answers: Iterable[Prediction], conditions: dict[str, Any]
) -> None:
    """Write scores that a round goes on with, and what they depend on.

    The answers behind them, in a file beside it, stay for good.
    """
    files.write_jsonl(path.with_suffix(".jsonl"), (each.to_json() for each in answers))
    files.write_json(path, report.to_json() | {"conditions": conditions})


def kept_scores(path: Path, conditions: dict[str, Any]) -> EvalReport | None:
    """What `keep_scores` wrote, unless scores would come out otherwise today."""
    if not path.exists():
        return None
    saved = files.read_json(path)
    return EvalReport.from_json(saved) if saved.get("conditions") == conditions else None


def _score_parent(
    draft: Draft,
    model: AdaptedModel,
    tester: Tester,
    conditions: dict[str, Any],
    stale: Sequence[str],
) -> EvalReport:
    """The parent on all tasks; `stale` names what makes its report out of date."""
    path, parent = draft.folder / "before.json", draft.parent
    measured = kept_scores(path, conditions)
    if measured is None:
        if stale:
            tester.progress.say(
                f"{parent.id} was tested in another way ({', '.join(stale)} changed since, or were "
                "not written down), so it is tested again before anything is taught."
            )
        old, what = draft.shortened_tasks, f"{parent.id} on the new rows"
        if stale:
            old, what = draft.old_tasks, f"{parent.id} on all rows"
        asked = asked_as_taught(model, parent.adapter)
        measured, answers = tester.score(asked, (*old, *draft.tasks), what)
        keep_scores(path, measured, answers, conditions)
    known = {} if stale else parent.scores.tasks
    return replace(measured, tasks={**known, **measured.tasks})


def _score_base(
    draft: Draft, model: AdaptedModel, tester: Tester, conditions: dict[str, Any]
) -> EvalReport:
    """The base model on the new tasks: what forward transfer is measured against."""
    path = draft.folder / "base.json"
    scores = kept_scores(path, conditions)
    if scores is None:
        with base_model_of(model, tester.config) as base_model:
            what = "the base model on the new rows"
            scores, answers = tester.score(base_model, draft.tasks, what)
        keep_scores(path, scores, answers, conditions)
    return scores
