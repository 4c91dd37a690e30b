"""Workspaces whose rounds are written by hand: nothing is trained, and everything has its files."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from llama_factory.config.template import settings_file
from llama_factory.core import files
from llama_factory.core.types import EvalReport, TaskScores
from llama_factory.evaluation.lineage_scores import PREDICTIONS, read_lineage_scores
from llama_factory.evaluation.task_rows import Prediction
from llama_factory.model.provenance import ADAPTER_FILE, WEIGHTS_FILE
from llama_factory.rounds import gate_sentences as gate
from llama_factory.rounds.check import Check
from llama_factory.versions import releases, store
from llama_factory.versions.version import MANIFEST, REPORT, ModelVersion
from llama_factory.versions.workspace import Workspace

METRIC = "token_f1"
Group = str | Sequence[str]
EVIL = "<script>alert('x')</script>"


def make_bot(
    folder: Path,
    num_rounds: int = 3,
    *,
    refused: Sequence[int] = (),
    group: Group = "faq",
    base_model: str = "tiny",
) -> Workspace:
    """A workspace with this many versions, each taught one task of four rows.

    Args:
        folder: a new one.
        num_rounds: versions beside the base model.
        refused: numbers of those that the gate refused; nothing goes on from them.
        group: name of the rows, or one a version, in turn.
        base_model: that is named; it is not looked for.
    """
    workspace = store.create_workspace(folder, base_model, settings_file(base_model))
    parent = store.get(workspace, "v0000")
    for number in range(1, num_rounds + 1):
        name = group if isinstance(group, str) else group[(number - 1) % len(group)]
        version = _version(workspace, parent, number, is_good=number not in refused, group=name)
        if number in refused:
            why = _check(version.id, name, is_good=False).reason
            releases.hold(workspace.releases, version.id, gate.REFUSED(why=why))
        else:
            releases.promote(workspace.releases, version.id, gate.PROMOTED())
            parent = version
    return workspace


def _version(
    workspace: Workspace, parent: ModelVersion, number: int, *, is_good: bool, group: str
) -> ModelVersion:
    folder = workspace.building
    folder.mkdir()
    version_id = f"v{number:04d}"
    answers = _answers(parent, version_id, number, group)
    files.write_jsonl(folder / PREDICTIONS, (each.to_json() for each in answers))
    _write_adapter(folder / "adapter")
    files.write_text(folder / "report.html", f"<h1>{version_id}</h1>")
    evaluation = _report(answers)
    check = _check(version_id, group, is_good=is_good).to_json()
    report = {
        "evaluation": evaluation.to_json(),
        "verdict": {"promoted": is_good, "held": False, "checks": [check]},
        "training": {"steps": 12, "loss": 1.5},
    }
    files.write_json(folder / REPORT, report)
    made = f"2026-01-{1 + number % 28:02d}T00:00:00+00:00"
    draft = ModelVersion(version_id, parent.id, made, "tiny", "", "", 12, folder, {})
    scores = read_lineage_scores([*store.lineage(parent), draft], draft)
    files.write_json(folder / REPORT, report | scores.learned())
    return store.publish(workspace, draft)


def _check(version_id: str, group: str, *, is_good: bool) -> Check:
    if is_good:
        score = gate.CHANGE(metric="token_f1", before="0.10", after="0.90")
        learned = gate.NEW_TASK(task=f"{version_id} {group}", before="5.21", after="1.48")
        return Check("learned", True, gate.AND_METRIC(text=learned, change=score))
    score = gate.CHANGE(metric="token_f1", before="0.82", after="0.61")
    return Check("kept", False, gate.OLD_BEYOND(task="v0001 warranty", change=score, limit="0.1"))


def _write_adapter(folder: Path) -> None:
    files.write_json(folder / ADAPTER_FILE, {"peft_type": "LORA", "r": 4})
    save_file({"a": np.zeros(4, np.float32)}, folder / WEIGHTS_FILE)


def _answers(parent: ModelVersion, version: str, number: int, group: str) -> list[Prediction]:
    """Those of the parent's last two tasks, a little worse, and four of the new task."""
    path = parent.folder / PREDICTIONS
    known = [Prediction.from_json(each) for each in files.read_jsonl(path)]
    tasks = list(dict.fromkeys(each.task for each in known))[-2:]
    old = [
        replace(each, answer="forgotten", scores={METRIC: max(0.0, each.scores[METRIC] - 0.1)})
        for each in known
        if each.task in tasks
    ]
    new = [
        Prediction(
            f"{version} {group}",
            f"Q{n}?",
            "yes",
            "yes",
            {METRIC: 0.9 - n / 20},
            key=f"{number}-{n}",
        )
        for n in range(4)
    ]
    return [*old, *new]


def _report(answers: Sequence[Prediction]) -> EvalReport:
    by_task: dict[str, list[float]] = {}
    for each in answers:
        by_task.setdefault(each.task, []).append(each.scores[METRIC])
    scores = {
        task: TaskScores(task, len(listed), {METRIC: sum(listed) / len(listed)})
        for task, listed in by_task.items()
    }
    return EvalReport(scores, 5.0, 1.0)


def damage(workspace: Workspace, version: str = "v0001") -> None:
    """Cut files of a workspace short, as a full disk or a careless person does."""
    (workspace.versions / version / REPORT).write_text("{")
    (workspace.versions / "v0002" / MANIFEST).write_text("")
    (workspace.folder / "notes.json").write_text("[")
    (workspace.folder / "monitor.jsonl").write_text("{not a line\n")
