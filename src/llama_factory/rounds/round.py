"""One round of learning: from files in the inbox to a version that is released, or held back."""

import math
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from llama_factory.continual.combinations import empty_starts
from llama_factory.continual.strategy_rows import num_missing
from llama_factory.core import files
from llama_factory.core.errors import ConfigError, ModelError
from llama_factory.core.progress import Progress
from llama_factory.core.types import EvalReport, Memory, Task
from llama_factory.evaluation.drift import mean_divergence, write_row_drift
from llama_factory.evaluation.evaluator import conditions_of, differences, evaluate
from llama_factory.evaluation.lineage_scores import BEFORE, DRIFT, PREDICTIONS
from llama_factory.evaluation.scoring import change_intervals
from llama_factory.evaluation.task_rows import Prediction, read_predictions
from llama_factory.model import provenance
from llama_factory.model.adapted import AdaptedModel, adapt, asked_as_taught
from llama_factory.model.adapters import ADAPTERS
from llama_factory.model.chat.encoding import encode_options
from llama_factory.rounds import draft as drafts
from llama_factory.rounds import finishing
from llama_factory.rounds.draft import TESTING, Draft
from llama_factory.rounds.finishing import Draw, Round
from llama_factory.rounds.gate import Verdict, decide
from llama_factory.rounds.measure import general_drift, untouched
from llama_factory.rounds.settings import LearningConfig
from llama_factory.training.loop import Protection, TrainedModel, TrainingFolders, train
from llama_factory.training.outcome import End
from llama_factory.versions import memory, releases, store
from llama_factory.versions.version import MEMORY, REPORT, ModelVersion
from llama_factory.versions.workspace import Workspace

BYTES_PER_TRAINED_WEIGHT = 4 * 10
"""Room for the adapter and three checkpoints of weights and optimizer state."""


@dataclass(frozen=True)
class _Work:
    """A round in progress: where, with which settings, from which parent, on which rows."""

    workspace: Workspace
    config: LearningConfig
    parent: ModelVersion
    draft: Draft
    progress: Progress
    draw: Draw | None


@dataclass(frozen=True)
class _Measured:
    """What a round is judged by, all measured in one way before it trains.

    Attributes:
        conditions: what the scores depend on.
        before: the parent, on all tasks, old and new.
        base: the base model on the new tasks.
        base_guard: the base model's perplexity on the guard.
    """

    conditions: dict[str, Any]
    before: EvalReport
    base: EvalReport
    base_guard: float


@dataclass(frozen=True)
class _Tried:
    """One end of the training before the gate.

    Attributes:
        end: which.
        kept: what the strategies remember then.
        after: scores on all tasks.
        predictions: the answers behind them.
        verdict: of the gate.
    """

    end: End
    kept: Memory
    after: EvalReport
    predictions: Sequence[Prediction]
    verdict: Verdict

    def to_json(self) -> dict[str, Any]:
        """Plain values for report.json."""
        return {"name": self.end.name, "summary": self.verdict.summary}


def learn(
    workspace: Workspace,
    config: LearningConfig,
    progress: Progress,
    *,
    draw: Draw | None = None,
    again: bool = False,
) -> Round | None:
    """Teach what is in the inbox to the released version, and release the result if it is better.

    A round that was interrupted goes on where it stood. A version that the gate refuses is kept as
    the candidate and its files stay in the inbox.

    Args:
        workspace: whose inbox and released version.
        config: settings.
        progress: shows how far it is.
        draw: writes the page and the pictures of the version; None leaves them out.
        again: train also where the same files, settings and parent made a version already.

    Returns:
        None when there is nothing new in the inbox.

    Raises:
        FactoryError: the message says what is wrong and what is safe.
    """
    _check(config)
    with (
        files.locked(workspace.lock, what="running a round here", seconds=0),
        files.reporting_full_disk(workspace.folder, what="a round is made"),
    ):
        finished = finishing.finish_interrupted(workspace, progress, draw)
        if finished is not None:
            return finished
        parent = store.get(workspace, releases.PRODUCTION)
        draft = drafts.open_draft(workspace, config, parent, progress, again=again)
        if isinstance(draft, Draft):
            return _learn(_Work(workspace, config, parent, draft, progress, draw))
        return finishing.made_before(draft) if draft else None


def _learn(work: _Work) -> Round:
    """The round itself, from fixed rows to a release."""
    model = _load(work)
    measured = _measure_before(work, model)
    trained = _train(work, model)
    tried = _judge(work, trained, measured)
    answers = (each.to_json() for each in tried[-1].predictions)
    files.write_jsonl(work.draft.folder / PREDICTIONS, answers)
    _write(work, trained, measured, tried)
    drafts.strip(work.draft.folder, work.workspace, keep_rows=work.config.data.keep_rows)
    version = finishing.publish(work.workspace, work.parent, work.draft.folder, work.draw)
    return finishing.release(work.workspace, version)


def _judge(work: _Work, trained: TrainedModel, measured: _Measured) -> list[_Tried]:
    """Try the ends of the training until the gate accepts one; where it accepts none, the first.

    Where no row shows what was learned, a gentler end shows no more.

    Returns:
        All that were tried; the model is left as the last of them.
    """
    tried: list[_Tried] = []
    places = work.parent.folder / PREDICTIONS, work.draft.folder / BEFORE
    earlier = [answer for place in places for answer in read_predictions(place)]
    for end in trained.ends:
        kept = end.reach() if tried else trained.memory
        what = f"on all rounds, {end.name}" if tried else "on all rounds"
        after, predictions = _measure(work, trained.model, _all_tasks(work), what)
        verdict = decide(
            after,
            measured.before,
            new=[task.name for task in work.draft.tasks],
            base_guard=measured.base_guard,
            settings=work.config.gate,
            changes=change_intervals(earlier, predictions, work.config.gate.metric),
        )
        tried.append(_Tried(end, kept, after, predictions, verdict))
        if verdict.is_promoted or verdict.is_held:
            return tried
        if end is not trained.ends[-1]:
            work.progress.say(f"Refused {end.name}: {verdict.summary}. A gentler end is tried.")
    if len(tried) > 1:
        tried[0].end.reach()
    return [*tried[1:], tried[0]]


def _check(config: LearningConfig) -> None:
    known = [metric.label for metric in config.evaluation.metrics]
    if config.gate.metric not in known:
        raise ConfigError(
            f"gate.metric: '{config.gate.metric}' is not among evaluation.metrics "
            f"({', '.join(known)}). Name one of them, or add it there."
        )
    if alone := config.model.beyond_rounds():
        raise ConfigError(
            f"{alone}: rounds of a workspace go on with the released version's adapter on one "
            "unchanged base, so this is for runs without one: llama-factory train. Leave it out, "
            "or export the result of such a run and start a workspace on it (init --model)."
        )
    if not config.training.objective.teaches_answers:
        raise ConfigError(
            "training.objective: a reward model judges answers, and the versions of a workspace "
            "give them. Train it without a workspace: llama-factory train."
        )
    adapter = config.model.adapter
    if adapter.peft_type is None:
        kind = ADAPTERS.name_of(adapter)
        raise ConfigError(
            f"model.adapter: type {kind} trains the base model's own weights, and the versions of "
            "a workspace are adapters of one unchanged base. Use lora (with a higher rank it "
            f"learns nearly as much), or train {kind} without a workspace: llama-factory train."
        )


def _load(work: _Work) -> AdaptedModel:
    """The parent's model, after checking that settings and files still fit it."""
    config, parent = work.config, work.parent
    if config.model.base_model != parent.base_model:
        raise ModelError(
            f"model.base_model is '{config.model.base_model}' and {parent.id} was made from "
            f"'{parent.base_model}'. An adapter fits one base only: set it back, or start a new "
            "workspace."
        )
    seed, options = config.training.seed, encode_options(config.data)
    under = provenance.read(parent.adapter).merged if parent.adapter else ()
    model = adapt(config.model, parent.adapter, options=options, seed=seed, merged=under)
    if parent.base_fingerprint not in ("", model.fingerprint):
        raise ModelError(
            f"The files of base model '{parent.base_model}' changed since {parent.id} was made, so "
            "its adapter no longer fits. Restore the model's files, or start a new workspace."
        )
    num_weights = sum(weight.numel() for weight in model.trainable().values())
    num_bytes = num_weights * BYTES_PER_TRAINED_WEIGHT
    files.require_space(work.workspace.folder, num_bytes, what="a round here")
    return model


def _measure_before(work: _Work, model: AdaptedModel) -> _Measured:
    """The parent on its own tasks and on the new ones, and the base model on the new ones.

    Of its own tasks the parent's report tells, but for those that lost questions since, and unless
    scores would come out otherwise today.
    """
    conditions, report = conditions_of(model, work.config.evaluation), work.parent.report
    if work.parent.is_base:
        base = before = _measure_parent(work, model, conditions, stale=[])
    else:
        stale = differences(report.get("conditions"), conditions)
        before = _measure_parent(work, model, conditions, stale)
        base = _measure_base(work, model, conditions)
        if not stale:
            return _Measured(conditions, before, base, report["base_guard_perplexity"])
    guard = base.guard_perplexity
    return _Measured(conditions, before, base, math.nan if guard is None else guard)


def _measure_base(work: _Work, model: AdaptedModel, conditions: dict[str, Any]) -> EvalReport:
    """The base model on the new tasks: what forward transfer is measured against."""
    path = work.draft.folder / "base.json"
    base = drafts.kept_scores(path, conditions)
    if base is None:
        with untouched(model, work.config.model) as network:
            what = "the base model on the new rows"
            base, answers = _measure(work, network, work.draft.tasks, what)
        drafts.keep_scores(path, base, answers, conditions)
    return base


def _measure_parent(
    work: _Work, model: AdaptedModel, conditions: dict[str, Any], stale: Sequence[str]
) -> EvalReport:
    """The parent on all tasks; `stale` says why its report does not tell it."""
    path, parent = work.draft.folder / "before.json", work.parent
    on_new = drafts.kept_scores(path, conditions)
    if on_new is None:
        if stale:
            work.progress.say(
                f"{parent.id} was tested in another way ({', '.join(stale)} changed since, or were "
                "not written down), so it is tested again before anything is taught."
            )
        old, what = (_old_tasks(work), "all rows") if stale else (_shortened(work), "the new rows")
        tasks = (*old, *work.draft.tasks)
        asked = asked_as_taught(model, parent.adapter)
        on_new, answers = _measure(work, asked, tasks, f"{parent.id} on {what}")
        drafts.keep_scores(path, on_new, answers, conditions)
    known = {} if stale else parent.scores.tasks
    return replace(on_new, tasks={**known, **on_new.tasks})


def _divergence(work: _Work, model: AdaptedModel) -> float | None:
    drift = general_drift(model, work.config)
    return mean_divergence(write_row_drift(work.draft.folder / DRIFT, drift))


def _train(work: _Work, model: AdaptedModel) -> TrainedModel:
    folder, remembered = work.draft.folder, _memory(work)
    if not work.parent.is_base:
        for text in empty_starts(work.config.strategies, remembered):
            work.progress.say(text)
    return train(
        model,
        work.draft.data.train,
        work.config.training,
        Protection(tuple(work.config.strategies), remembered),
        folders=TrainingFolders(
            checkpoints=folder / "checkpoints",
            metrics=folder / "metrics.jsonl",
            events=work.workspace.runs / work.draft.id,
            tokens=work.workspace.cache / "tokens",
        ),
        progress=work.progress,
        held_out=work.draft.data.held_out,
    )


def _memory(work: _Work) -> Memory:
    """The parent's memory without the rows whose answers this round corrects."""
    corrected, memory = set(work.draft.data.report.corrected), work.parent.memory
    if not work.config.data.keep_rows:
        return replace(memory, rows={})
    for name, count in num_missing(memory).items():
        work.progress.say(
            f"Memory of {name}: {count} rows that it kept are gone from {work.parent.id}."
        )
    kept = {
        name: tuple(row for row in rows if row.key not in corrected)
        for name, rows in memory.rows.items()
    }
    return replace(memory, rows=kept)


def _all_tasks(work: _Work) -> tuple[Task, ...]:
    return (*_old_tasks(work), *work.draft.tasks)


def _old_tasks(work: _Work) -> tuple[Task, ...]:
    """The parent's tasks without the questions whose answers this round corrects."""
    return store.without(store.tasks(work.parent), frozenset(work.draft.data.report.retired))


def _shortened(work: _Work) -> tuple[Task, ...]:
    """Those of them that lost questions, and that the parent's scores do not fit any more."""
    whole = {task.name: len(task.rows) for task in store.tasks(work.parent)}
    return tuple(task for task in _old_tasks(work) if len(task.rows) < whole[task.name])


def _measure(
    work: _Work, model: AdaptedModel, tasks: Sequence[Task], what: str
) -> tuple[EvalReport, list[Prediction]]:
    return evaluate(
        model,
        tasks,
        work.config.evaluation,
        title=f"testing {what}",
        progress=work.progress,
        folder=work.draft.folder / TESTING / what.replace(" ", "-"),
    )


def _write(
    work: _Work, trained: TrainedModel, measured: _Measured, tried: Sequence[_Tried]
) -> None:
    """Everything that makes the version but its manifest; the report comes last."""
    folder, config, chosen = work.draft.folder, work.config, tried[-1]
    for name in ("adapter", MEMORY):
        shutil.rmtree(folder / name, ignore_errors=True)
    trained.model.save(folder / "adapter")
    memory.save(chosen.kept, folder / MEMORY)
    finishing.write_settings(config, folder)
    data = work.draft.data
    report = {
        "data": drafts.told_of_data(data.report, keep_rows=config.data.keep_rows),
        "num_rows": len(data.train),
        "taken": work.draft.taken,
        "training": trained.to_json(),
        "conditions": measured.conditions,
        "before": measured.before.to_json(),
        "evaluation": chosen.after.to_json(),
        "base": measured.base.to_json(),
        "base_fingerprint": trained.model.fingerprint,
        "base_guard_perplexity": measured.base_guard,
        "base_divergence": _divergence(work, trained.model),
        "strategies": finishing.costs(chosen.kept, trained.hook_seconds),
        "ends": [each.to_json() for each in tried],
        "verdict": chosen.verdict.to_json(),
    }
    files.write_json(folder / REPORT, report)
