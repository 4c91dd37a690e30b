"""One round of learning: from files in the inbox to a version that is released, or held back."""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

from llama_factory.continual.combinations import empty_starts
from llama_factory.continual.strategy_rows import num_missing
from llama_factory.core import files
from llama_factory.core.errors import ConfigError, FactoryError, ModelError
from llama_factory.core.ownership import owned
from llama_factory.core.progress import Progress
from llama_factory.core.types import EvalReport, Memory
from llama_factory.evaluation.complaints import ComplaintReport, report_complaints, tasks_of
from llama_factory.evaluation.drift import RowDrift
from llama_factory.evaluation.lineage_scores import COMPLAINTS, PREDICTIONS
from llama_factory.evaluation.paired_rows import pair_rows
from llama_factory.evaluation.task_rows import Prediction
from llama_factory.model import provenance
from llama_factory.model.adapted import AdaptedModel, adapt
from llama_factory.model.adapters import ADAPTERS
from llama_factory.model.chat.encoding import encode_options
from llama_factory.monitoring.observe import observe_round, sentence
from llama_factory.rounds import draft as drafts
from llama_factory.rounds import finishing
from llama_factory.rounds.check import GateEvidence, unknown_limits
from llama_factory.rounds.draft import Draft
from llama_factory.rounds.finishing import PLAIN, Round, RoundEnding
from llama_factory.rounds.gate import Verdict, decide, with_complaints
from llama_factory.rounds.measure import (
    Baseline,
    Tester,
    base_network,
    keep_comparison,
    measure_before_round,
    measure_drift,
)
from llama_factory.rounds.settings import LearningConfig
from llama_factory.training.loop import Protection, TrainedModel, TrainingFolders, train
from llama_factory.training.outcome import End
from llama_factory.versions import memory, releases, store
from llama_factory.versions.forgotten import read_forgotten, without_rows
from llama_factory.versions.version import MEMORY, REPORT, ModelVersion
from llama_factory.versions.workspace import Workspace

BYTES_PER_TRAINED_WEIGHT = 4 * 10
"""Room for the adapter and three checkpoints of weights and optimizer state."""


@dataclass(frozen=True)
class _JudgedEnd:
    """One end of the training as the gate judged it.

    Attributes:
        end: which.
        memory: what the strategies remember then.
        scores: on all tasks.
        answers: behind the scores.
        drift: from the base model, row by row of the guard.
        verdict: of the gate.
        on_complaints: its answers to complaints of users.
        complaints: these beside the parent's.
    """

    end: End
    memory: Memory
    scores: EvalReport
    answers: Sequence[Prediction]
    drift: Sequence[RowDrift]
    verdict: Verdict
    on_complaints: Sequence[Prediction]
    complaints: ComplaintReport

    def to_json(self) -> dict[str, Any]:
        """Plain values for report.json."""
        return {"name": self.end.name, "summary": self.verdict.summary}


def learn(
    workspace: Workspace,
    config: LearningConfig,
    progress: Progress,
    *,
    ending: RoundEnding = PLAIN,
    again: bool = False,
    only: Mapping[str, str] | None = None,
) -> Round | None:
    """Teach what is in the inbox to the released version, and release the result if it is better.

    A round that was interrupted goes on where it stood. A version that the gate refuses is kept as
    the candidate and its files stay in the inbox.

    Args:
        workspace: whose inbox and released version.
        config: settings.
        progress: shows how far it is.
        ending: what is done with a version besides: its page, checks before its release.
        again: train also where the same files, settings and parent made a version already.
        only: SHA-256 by name of the files of the inbox that may be taken; None for all.

    Returns:
        None when there is nothing new in the inbox.

    Raises:
        FactoryError: the message says what is wrong and what is safe.
    """
    _check(config)
    with (
        owned(workspace.lock, what="running a round here"),
        files.reporting_full_disk(workspace.folder, what="a round is made"),
    ):
        finished = finishing.finish_interrupted(workspace, progress, ending)
        if finished is not None:
            return finished
        parent = store.get(workspace, releases.PRODUCTION)
        draft = drafts.open_draft(workspace, config, parent, progress, again=again, only=only)
        if not isinstance(draft, Draft):
            return finishing.decided_before(draft) if draft else None
        model = _adapt(draft, config)
        before = measure_before_round(draft, model, config, progress)
        trained = _train(draft, model, config, progress)
        base = base_network(trained.model, config)
        ends = _evaluate(draft, trained, before, base, config, progress)
        _save(draft, trained, before, ends, base, config)
        version = finishing.publish(workspace, parent, draft.folder, ending)
        _observe(workspace, version, progress)
        return finishing.release(workspace, version, ending)


def _observe(workspace: Workspace, version: ModelVersion, progress: Progress) -> None:
    """Say whether the rows were like those before; what cannot be noted stops no release."""
    try:
        told = sentence(observe_round(workspace, version))
    except (FactoryError, OSError) as error:
        told = f"The rows of this round are not in the monitor: {error}"
    if told:
        progress.say(told)


def safer(config: LearningConfig, done: Round | None) -> LearningConfig | None:
    """The settings of a second try where `gate.retry_safe` asks for one: the preset `safe`."""
    wanted = done is not None and done.verdict.word == "refused" and done.verdict.has_forgotten
    if not (config.gate.retry_safe and wanted):
        return None
    values = config.model_dump() | {"strategies": "safe"}
    changed = type(config).model_validate(values)
    return None if changed.strategies == config.strategies else changed


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


def _adapt(draft: Draft, config: LearningConfig) -> AdaptedModel:
    """The parent's model, after checking that settings and files still fit it."""
    parent = draft.parent
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
    files.require_space(draft.workspace.folder, num_bytes, what="a round here")
    return model


def _train(
    draft: Draft, model: AdaptedModel, config: LearningConfig, progress: Progress
) -> TrainedModel:
    folder, remembered = draft.folder, _memory(draft, config, progress)
    if not draft.parent.is_base:
        for text in empty_starts(config.strategies, remembered):
            progress.say(text)
    return train(
        model,
        draft.data.train,
        config.training,
        Protection(tuple(config.strategies), remembered),
        folders=TrainingFolders(
            checkpoints=folder / "checkpoints",
            metrics=folder / "metrics.jsonl",
            events=draft.workspace.runs / draft.id,
            tokens=draft.workspace.cache / "tokens",
            states=draft.workspace.cache / "states",
        ),
        progress=progress,
        held_out=draft.data.held_out,
    )


def _memory(draft: Draft, config: LearningConfig, progress: Progress) -> Memory:
    """The parent's memory without rows that this round corrects or that are to be forgotten."""
    kept = draft.parent.memory
    gone = {*draft.data.report.corrected, *read_forgotten(draft.workspace)}
    if not config.data.keep_rows:
        return replace(kept, rows={})
    for name, count in num_missing(kept).items():
        progress.say(
            f"Memory of {name}: {count} rows that it kept are gone from {draft.parent.id}."
        )
    return without_rows(kept, gone)


def _evaluate(
    draft: Draft,
    trained: TrainedModel,
    before: Baseline,
    base: Any,
    config: LearningConfig,
    progress: Progress,
) -> list[_JudgedEnd]:
    """Judge the ends of the training until the gate accepts one; where it accepts none, the first.

    Where no row shows what was learned, a gentler end shows no more.

    Returns:
        All that were judged; the model is left as the last of them.
    """
    tester, judged = Tester(config, progress, draft.folder), list[_JudgedEnd]()
    tasks = (*draft.old_tasks, *draft.tasks)
    for text in unknown_limits(config.gate, {task.group for task in tasks}):
        progress.say(text)
    for end in trained.ends:
        kept = end.reach() if judged else trained.memory
        what = f"on all rounds, {end.name}" if judged else "on all rounds"
        scores, answers = tester.score(trained.model, tasks, what)
        drift = measure_drift(trained.model, config, base)
        verdict = decide(
            scores,
            before.parent,
            new=[task.name for task in draft.tasks],
            base_guard=before.base_guard,
            settings=config.gate,
            evidence=GateEvidence(pair_rows(before.answers, answers, config.gate.metric), drift),
        )
        told = tester.answer(trained.model, tasks_of(draft.complaints), f"{what}, complaints")
        complaints = report_complaints(
            draft.complaints, before.on_complaints, told, config.gate.metric
        )
        verdict = with_complaints(verdict, complaints, config.gate)
        judged.append(_JudgedEnd(end, kept, scores, answers, drift, verdict, told, complaints))
        if not verdict.leans_to_refusal:
            return judged
        if end is not trained.ends[-1]:
            word = "Refused" if verdict.word == "refused" else "Not promoted"
            progress.say(f"{word} {end.name}: {verdict.summary}. A gentler end is tried.")
    if len(judged) > 1:
        judged[0].end.reach()
    return [*judged[1:], judged[0]]


def _save(
    draft: Draft,
    trained: TrainedModel,
    before: Baseline,
    ends: Sequence[_JudgedEnd],
    base: Any,
    config: LearningConfig,
) -> None:
    """Write all of the version but its manifest; the report comes last."""
    folder, data, chosen = draft.folder, draft.data, ends[-1]
    files.write_jsonl(folder / PREDICTIONS, (each.to_json() for each in chosen.answers))
    if chosen.on_complaints and config.data.keep_rows:
        files.write_jsonl(folder / COMPLAINTS, (each.to_json() for each in chosen.on_complaints))
    for name in ("adapter", MEMORY):
        shutil.rmtree(folder / name, ignore_errors=True)
    trained.model.save(folder / "adapter")
    memory.save(chosen.memory, folder / MEMORY)
    finishing.write_settings(config, folder)
    provable = chain(data.held_out, data.train if config.data.keep_rows else ())
    report = {
        "data": drafts.describe_data(data.report, keep_rows=config.data.keep_rows),
        "num_rows": len(data.train),
        "taken": draft.taken,
        "training": trained.to_json(),
        "conditions": before.conditions,
        "before": before.parent.to_json(),
        "evaluation": chosen.scores.to_json(),
        "base": before.base.to_json(),
        "base_fingerprint": trained.model.fingerprint,
        "base_guard_perplexity": before.base_guard,
        "base_divergence": keep_comparison(trained.model, folder, chosen.drift, base, provable),
        "strategies": finishing.strategy_costs(chosen.memory, trained.hook_seconds),
        "ends": [each.to_json() for each in ends],
        "verdict": chosen.verdict.to_json(),
    }
    if chosen.complaints.answered:
        report["complaints"] = chosen.complaints.to_json(keep_rows=config.data.keep_rows)
    if hashes := drafts.plugin_hashes(config):
        report["plugins"] = hashes
    files.write_json(folder / REPORT, report)
    drafts.strip(folder, draft.workspace, keep_rows=config.data.keep_rows)
