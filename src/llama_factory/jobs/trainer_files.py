"""A run's numbers as Transformers' trainer leaves them, for tools that read its files."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from llama_factory.core import files
from llama_factory.training.settings import TrainingSettings

STATE, TRAINED, TESTED = "trainer_state.json", "train_results.json", "eval_results.json"
LOG = "trainer_log.jsonl"


def write(
    folder: Path, training: Mapping[str, Any], settings: TrainingSettings, num_rows: int
) -> dict[str, Any]:
    """Write trainer_state.json, train_results.json and, where it was measured, eval_results.json.

    Args:
        folder: of the run; its trainer_log.jsonl is whole.
        training: what came of it, as in the results.
        settings: that it was trained with.
        num_rows: that were taught.

    Returns:
        The numbers of both results together: Transformers' all_results.json.
    """
    log = list(files.read_jsonl(folder / LOG))
    write_state(folder, folder, training, settings, num_rows, is_over=True)
    results = _trained(log, training, num_rows)
    files.write_json(folder / TRAINED, results)
    tested = _tested(log)
    if tested:
        files.write_json(folder / TESTED, tested)
    return results | tested


def write_state(
    folder: Path,
    run: Path,
    training: Mapping[str, Any],
    settings: TrainingSettings,
    num_rows: int,
    *,
    is_over: bool = False,
) -> None:
    """Write trainer_state.json as it is after so many updates.

    Args:
        folder: it goes there.
        run: the run's own folder, with its trainer_log.jsonl.
        training: `steps`, `tokens`, `seconds`, and the best step and loss if any was measured.
        settings: of the run.
        num_rows: that are taught.
        is_over: whether the run is; what it came to is then the last entry.
    """
    log = list(files.read_jsonl(run / LOG))
    best = run / f"checkpoint-{training.get('best_step')}"
    state = _state(log, training, settings, num_rows)
    if is_over:
        state["log_history"].append(_trained(log, training, num_rows) | _at(log[-1] if log else {}))
    state["best_model_checkpoint"] = str(best) if best.is_dir() else None
    files.write_json(folder / STATE, state)


def _state(
    log: Sequence[Mapping[str, Any]],
    training: Mapping[str, Any],
    settings: TrainingSettings,
    num_rows: int,
) -> dict[str, Any]:
    """What `transformers.TrainerState.load_from_json` reads."""
    last = log[-1] if log else {}
    steps = int(last.get("total_steps", training["steps"]))
    return {
        "best_global_step": training.get("best_step"),
        "best_metric": training.get("best_loss"),
        "epoch": last.get("epoch", 0.0),
        "eval_steps": settings.eval_steps if isinstance(settings.eval_steps, int) else None,
        "global_step": training["steps"],
        "is_hyper_param_search": False,
        "is_local_process_zero": True,
        "is_world_process_zero": True,
        "log_history": _history(log),
        "logging_steps": 1,
        "max_steps": steps,
        "num_input_tokens_seen": training["tokens"],
        "num_train_epochs": -(-steps * settings.batch_size // max(1, num_rows)),
        "save_steps": settings.checkpoint_steps,
        "stateful_callbacks": {},
        "total_flos": 0.0,
        "train_batch_size": settings.micro_batch_size or settings.batch_size,
        "trial_name": None,
        "trial_params": None,
    }


def _history(log: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One entry an update, and one more where the held-out loss was measured."""
    found = []
    for row in log:
        place = _at(row)
        numbers = {"loss": row.get("loss"), "grad_norm": row.get("gradient_norm")}
        found.append(numbers | {"learning_rate": row.get("lr")} | _rewards(row, "") | place)
        if row.get("eval_loss") is not None:
            found.append({"eval_loss": row["eval_loss"]} | _rewards(row, "eval_") | place)
    return found


REWARDS = {
    "reward_chosen": "rewards/chosen",
    "reward_rejected": "rewards/rejected",
    "reward_accuracy": "rewards/accuracies",
    "reward_margin": "rewards/margins",
}
"""Number of an objective on preferences -> what other trainers call it."""


def _rewards(row: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    return {
        f"{prefix}{theirs}": row[f"{prefix}{ours}"]
        for ours, theirs in REWARDS.items()
        if row.get(f"{prefix}{ours}") is not None
    }


def _at(row: Mapping[str, Any]) -> dict[str, Any]:
    return {"epoch": row.get("epoch", 0.0), "step": row.get("current_steps", 0)}


def _trained(
    log: Sequence[Mapping[str, Any]], training: Mapping[str, Any], num_rows: int
) -> dict[str, Any]:
    losses = [row["loss"] for row in log if row.get("loss") is not None]
    seconds, epoch = float(training["seconds"]), log[-1]["epoch"] if log else 0.0
    return {
        "epoch": epoch,
        "total_flos": 0.0,
        "train_loss": sum(losses) / len(losses) if losses else None,
        "train_runtime": seconds,
        "train_samples_per_second": round(epoch * num_rows / seconds, 3) if seconds else None,
        "train_steps_per_second": round(training["steps"] / seconds, 3) if seconds else None,
    }


def _tested(log: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The last measurement of the held-out loss; nothing where there was none."""
    measured = [row for row in log if row.get("eval_loss") is not None]
    if not measured:
        return {}
    return {"epoch": measured[-1]["epoch"], "eval_loss": measured[-1]["eval_loss"]}
