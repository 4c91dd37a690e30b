"""One round of learning: from files in the inbox to a version that is released, or held back."""

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace

from llama_factory.continual import draft as drafts
from llama_factory.continual.draft import Draft
from llama_factory.continual.gate import Verdict, decide, read_verdict
from llama_factory.continual.settings import RoundConfig
from llama_factory.core import files
from llama_factory.core.errors import ConfigError, ModelError
from llama_factory.core.progress import Progress
from llama_factory.core.types import EvalReport
from llama_factory.data import inbox
from llama_factory.evaluation.metrics import METRICS
from llama_factory.evaluation.suite import Prediction, evaluate
from llama_factory.model.load import AdaptedModel, adapt
from llama_factory.training.loop import Protection, TrainedModel, TrainingFolders, train
from llama_factory.versions import memory, releases, store
from llama_factory.versions.version import REPORT, ModelVersion
from llama_factory.versions.workspace import Workspace

BYTES_PER_TRAINED_WEIGHT = 4 * 10
"""Room for the adapter and three checkpoints of weights and optimizer state."""


@dataclass(frozen=True)
class Round:
    """What a round came to: the new version and the gate's verdict."""

    version: ModelVersion
    verdict: Verdict


def learn(workspace: Workspace, config: RoundConfig, progress: Progress) -> Round | None:
    """Teach what is in the inbox to the released version, and release the result if it is better.

    A round that was interrupted goes on where it stood. A version that the gate refuses is kept as
    the candidate and its files stay in the inbox.

    Returns:
        None when there is nothing new in the inbox.

    Raises:
        FactoryError: the message says what is wrong and what is safe.
    """
    _check(config)
    with (
        files.locked(workspace.lock, what="running a round here", seconds=0),
        files.telling_of_full_disk(workspace.folder, what="a round is made"),
    ):
        _finish_last(workspace)
        parent = store.get(workspace, releases.PRODUCTION)
        draft = drafts.open_draft(workspace, config, parent, progress)
        if draft is None:
            return None
        model = _load(workspace, config, parent)
        before, base_guard = _measure_before(model, draft, config, parent, progress)
        trained = _train(model, draft, config, parent, workspace, progress)
        after, predictions = _measure(trained.model, draft, config, parent, progress)
        verdict = decide(after, before, base_guard=base_guard, settings=config.gate)
        _write(draft, trained, after, predictions)
        _report(draft, trained, before, after, base_guard, verdict)
        version = _publish(workspace, draft, config, parent, model)
        _release(workspace, version)
        return Round(version, verdict)


def _check(config: RoundConfig) -> None:
    known = [METRICS.name_of(metric) for metric in config.evaluation.metrics]
    if config.gate.metric not in known:
        raise ConfigError(
            f"gate.metric: '{config.gate.metric}' is not among evaluation.metrics "
            f"({', '.join(known)}). Name one of them, or add it there."
        )


def _load(workspace: Workspace, config: RoundConfig, parent: ModelVersion) -> AdaptedModel:
    if config.model.base_model != parent.base_model:
        raise ModelError(
            f"model.base_model is '{config.model.base_model}' and {parent.id} was made from "
            f"'{parent.base_model}'. An adapter fits one base only: set it back, or start a new "
            "workspace."
        )
    model = adapt(
        config.model,
        parent.adapter,
        max_tokens=config.data.max_tokens,
        seed=config.training.seed,
    )
    if parent.base_fingerprint not in ("", model.fingerprint):
        raise ModelError(
            f"The files of base model '{parent.base_model}' changed since {parent.id} was made, so "
            "its adapter no longer fits. Restore the model's files, or start a new workspace."
        )
    num_weights = sum(weight.numel() for weight in model.trainable().values())
    files.require_space(
        workspace.folder, num_weights * BYTES_PER_TRAINED_WEIGHT, what="a round here"
    )
    return model


def _measure_before(
    model: AdaptedModel,
    draft: Draft,
    config: RoundConfig,
    parent: ModelVersion,
    progress: Progress,
) -> tuple[EvalReport, float]:
    """The parent on its own tasks (from its report) and on the new ones; the base's guard."""
    path = draft.folder / "before.json"
    if not path.exists():
        on_new, _ = evaluate(
            model,
            draft.tasks,
            config.evaluation,
            title=f"testing {parent.id} on the new rows",
            progress=progress,
        )
        files.write_json(path, on_new.to_json())
    on_new = EvalReport.from_json(files.read_json(path))
    before = replace(on_new, tasks={**parent.scores.tasks, **on_new.tasks})
    measured = on_new.guard_perplexity or math.nan
    base_guard: float = parent.report.get("base_guard_perplexity", measured)
    return before, base_guard


def _train(
    model: AdaptedModel,
    draft: Draft,
    config: RoundConfig,
    parent: ModelVersion,
    workspace: Workspace,
    progress: Progress,
) -> TrainedModel:
    return train(
        model,
        draft.data.train,
        config.training,
        Protection(tuple(config.strategies), parent.memory),
        folders=TrainingFolders(
            checkpoints=draft.folder / "checkpoints",
            metrics=draft.folder / "metrics.jsonl",
            events=workspace.runs / draft.id,
        ),
        progress=progress,
    )


def _measure(
    model: AdaptedModel,
    draft: Draft,
    config: RoundConfig,
    parent: ModelVersion,
    progress: Progress,
) -> tuple[EvalReport, list[Prediction]]:
    return evaluate(
        model,
        (*store.tasks(parent), *draft.tasks),
        config.evaluation,
        title=f"testing {draft.id} on all rounds",
        progress=progress,
    )


def _write(
    draft: Draft, trained: TrainedModel, after: EvalReport, predictions: Iterable[Prediction]
) -> None:
    trained.model.network.save_pretrained(draft.folder / "adapter")
    memory.save(trained.memory, draft.folder / "memory")
    files.write_jsonl(draft.folder / "predictions.jsonl", map(asdict, predictions))


def _report(
    draft: Draft,
    trained: TrainedModel,
    before: EvalReport,
    after: EvalReport,
    base_guard: float,
    verdict: Verdict,
) -> None:
    report = {
        "data": draft.data.report.to_json(),
        "taken": draft.taken,
        "training": trained.to_json(),
        "before": before.to_json(),
        "evaluation": after.to_json(),
        "base_guard_perplexity": base_guard,
        "verdict": verdict.to_json(),
    }
    files.write_json(draft.folder / REPORT, report)


def _publish(
    workspace: Workspace,
    draft: Draft,
    config: RoundConfig,
    parent: ModelVersion,
    model: AdaptedModel,
) -> ModelVersion:
    import yaml

    settings = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
    files.write_text(draft.folder / "run.yaml", settings)
    drafts.strip(draft)
    version = ModelVersion(
        id=draft.id,
        parent=parent.id,
        created=releases.now(),
        base_model=config.model.base_model,
        base_fingerprint=model.fingerprint,
        data_fingerprint=draft.data.fingerprint,
        num_rows=len(draft.data.train),
        folder=draft.folder,
        files={},
    )
    return store.publish(workspace, version)


def _release(workspace: Workspace, version: ModelVersion) -> None:
    """Move the aliases as the verdict says; files that were learned leave the inbox."""
    verdict = read_verdict(version.report)
    if verdict is None:
        return
    if not verdict.is_promoted:
        releases.hold(workspace.releases, version.id, f"refused: {verdict.summary}")
        return
    releases.promote(workspace.releases, version.id, "promoted by the gate")
    inbox.clear(workspace.inbox, version.report["taken"])


def _finish_last(workspace: Workspace) -> None:
    """A crash between publishing and releasing leaves a version that no release names: name it."""
    newest = store.get(workspace, store.ids(workspace)[-1], verify=False)
    history = releases.read(workspace.releases).history
    if not any(newest.id in entry.aliases.values() for entry in history):
        _release(workspace, newest)
