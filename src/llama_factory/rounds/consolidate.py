"""Consolidation: the update of all rounds so far becomes part of the weights that rounds go on
with, and a fresh adapter begins.

The weights are the *original* base plus the chain of updates, added in float32 and rounded once:
rounded weights are never added to again. The updates lie beside the new adapter as they were
trained, so that nothing is lost and a rollback undoes it.
"""

from pathlib import Path
from typing import Any

from llama_factory.core import files
from llama_factory.core.errors import ConfigError, VersionError
from llama_factory.core.ownership import owned
from llama_factory.core.progress import Progress
from llama_factory.core.types import Memory
from llama_factory.evaluation.lineage_scores import PREDICTIONS
from llama_factory.evaluation.paired_rows import pair_rows
from llama_factory.model import provenance
from llama_factory.model.adapted import adapt, asked_as_taught
from llama_factory.model.adapters.lora import Lora
from llama_factory.model.chat.encoding import encode_options
from llama_factory.model.saved import of_version
from llama_factory.rounds import finishing
from llama_factory.rounds.check import GateEvidence
from llama_factory.rounds.finishing import PLAIN, Round, RoundEnding
from llama_factory.rounds.gate import decide
from llama_factory.rounds.measure import (
    Tester,
    base_network,
    keep_comparison,
    measure_before_consolidation,
    measure_drift,
)
from llama_factory.rounds.settings import LearningConfig
from llama_factory.training.strategy import STRATEGIES
from llama_factory.versions import memory, releases, store
from llama_factory.versions.forgotten import read_forgotten, without_rows
from llama_factory.versions.version import MEMORY, REPORT, ModelVersion
from llama_factory.versions.workspace import Workspace


def consolidate(
    workspace: Workspace,
    config: LearningConfig,
    progress: Progress,
    *,
    ending: RoundEnding = PLAIN,
) -> Round:
    """Make a version of the released one whose updates so far are in the weights.

    It answers as the released version does but for rounding; the gate makes sure of it. What
    strategies remember goes on as far as it still holds (`Strategy.consolidated`).

    Raises:
        FactoryError: the message says what is wrong; nothing was changed.
    """
    with (
        owned(workspace.lock, what="consolidating here"),
        files.reporting_full_disk(workspace.folder, what="a version is consolidated"),
    ):
        finishing.finish_interrupted(workspace, progress, ending)
        parent = store.get(workspace, releases.PRODUCTION)
        chain = _chain(workspace, parent, config)
        store.discard_unfinished(workspace)
        folder = _consolidate(workspace, parent, chain, config, progress)
        version = finishing.publish(workspace, parent, folder, ending)
        return finishing.release(workspace, version, ending)


def consolidated_memory(kept: Memory) -> Memory:
    """What still holds of the memory of all strategies after consolidation."""
    for strategy in STRATEGIES.parts.values():
        kept = strategy.consolidated(kept)
    return kept


def _chain(workspace: Workspace, parent: ModelVersion, config: LearningConfig) -> tuple[Path, ...]:
    """The adapters whose updates go into the weights, in their order."""
    if (workspace.building / store.PLAN).exists():
        raise VersionError(
            f"{workspace.folder}: a round was interrupted here, and would begin anew on other "
            "weights. Finish it first: llama-factory learn."
        )
    if parent.adapter is None:
        raise VersionError(
            f"{workspace.folder}: {parent.id}, the released version, is the untouched base model, "
            "so there is no update to consolidate. Teach it something first: llama-factory learn."
        )
    adapter = config.model.adapter
    if type(adapter) is not Lora or adapter.use_dora or adapter.modules_to_save:
        raise ConfigError(
            "model.adapter: consolidation adds up updates, and only those of plain LoRA layers "
            "add up (type lora, without use_dora and modules_to_save). Export the version instead, "
            "and start a workspace on the result: llama-factory export."
        )
    if "consolidated" in parent.report:
        raise VersionError(
            f"{workspace.folder}: {parent.id} was consolidated and taught nothing since, so there "
            "is no update to consolidate."
        )
    provenance.require_sum(parent.adapter)
    return of_version(config.model, (parent.adapter,), parent.base_fingerprint).adapters


def _consolidate(
    workspace: Workspace,
    parent: ModelVersion,
    chain: tuple[Path, ...],
    config: LearningConfig,
    progress: Progress,
) -> Path:
    """Everything of the version but its manifest, in a folder; the report comes last."""
    progress.say(f"Adding {len(chain)} update(s) to {parent.base_model} in float32.")
    options, seed = encode_options(config.data), config.training.seed
    fresh = adapt(config.model, None, options=options, seed=seed, merged=chain)
    model = asked_as_taught(fresh, parent.adapter)
    before = measure_before_consolidation(parent, model, config, progress)
    folder = workspace.building
    folder.mkdir(parents=True)
    base = base_network(model, config)
    drift = measure_drift(model, config, base)
    after, answers = Tester(config, progress).score(
        model, store.tasks(parent), "the consolidated model"
    )
    files.write_jsonl(folder / PREDICTIONS, (each.to_json() for each in answers))
    verdict = decide(
        after,
        before.parent,
        new=None,
        base_guard=before.base_guard,
        settings=config.gate,
        evidence=GateEvidence(pair_rows(before.answers, answers, config.gate.metric), drift),
    )
    kept = without_rows(consolidated_memory(parent.memory), read_forgotten(workspace))
    model.save(folder / "adapter")
    memory.save(kept, folder / MEMORY)
    files.write_jsonl(folder / "data" / "held_out.jsonl", [])
    tested = (row for task in store.tasks(parent) for row in task.rows)
    divergence = keep_comparison(model, folder, drift, base, tested)
    finishing.write_settings(config, folder)
    report: dict[str, Any] = {
        "consolidated": {"of": parent.id, "updates": len(chain)},
        "conditions": before.conditions,
        "before": before.parent.to_json(),
        "evaluation": after.to_json(),
        "base_fingerprint": model.fingerprint,
        "base_guard_perplexity": before.base_guard,
        "base_divergence": divergence,
        "strategies": finishing.strategy_costs(kept, {}),
        "verdict": verdict.to_json(),
    }
    files.write_json(folder / REPORT, report)
    return folder
