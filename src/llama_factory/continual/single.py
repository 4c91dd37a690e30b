"""A single run without a workspace: the same engine, a plain PEFT folder as output."""

from pathlib import Path
from typing import Any

from llama_factory.continual.settings import RoundConfig
from llama_factory.core import files
from llama_factory.core.errors import ConfigError, DataError
from llama_factory.core.progress import Progress
from llama_factory.core.types import Example, tasks_by_group
from llama_factory.data.prepare import PreparedData, Seen, prepare
from llama_factory.data.reading import READERS
from llama_factory.evaluation.pictures import draw_loss
from llama_factory.evaluation.suite import evaluate
from llama_factory.model.load import AdaptedModel, adapt
from llama_factory.training.loop import Protection, TrainedModel, TrainingFolders, train

WEIGHTS = "adapter_model.safetensors"


def fit(config: RoundConfig, output: Path, progress: Progress) -> dict[str, Any]:
    """Train on `data.train_path` and write adapter, tokenizer, logs and scores to `output`.

    An interrupted run goes on from its last checkpoint.

    Returns:
        What all_results.json holds.

    Raises:
        FactoryError: the message says what is wrong.
    """
    if (output / WEIGHTS).exists():
        raise ConfigError(
            f"output_dir: {output} holds a trained adapter already. Give another folder, or remove "
            "this one first; nothing was changed."
        )
    data = _read(config, progress)
    model = adapt(config.model, None, max_tokens=config.data.max_tokens, seed=config.training.seed)
    before = _score(model, data.held_out, config, "testing the base model", progress)
    folders = TrainingFolders(
        checkpoints=output / "checkpoints", metrics=output / "metrics.jsonl", events=output / "runs"
    )
    trained = train(
        model,
        data.train,
        config.training,
        Protection(tuple(config.strategies)),
        folders=folders,
        progress=progress,
    )
    after = _score(model, data.held_out, config, "testing the trained model", progress)
    results = {"training": trained.to_json(), "before": before, "after": after}
    return _write(trained, data, results, output)


def _read(config: RoundConfig, progress: Progress) -> PreparedData:
    if config.data.train_path is None:
        raise ConfigError("data.train_path is not given: name the file or folder to train on.")
    tests = _files("data.eval_path", config.data.eval_path) if config.data.eval_path else []
    fraction = 0.0 if tests else config.data.held_out_fraction
    paths = _files("data.train_path", config.data.train_path)
    data = prepare(paths, Seen(), held_out_fraction=fraction, test_paths=tests)
    for refused in data.report.refused:
        progress.say(f"Left out: {refused}")
    if not data.train:
        raise DataError(f"data.train_path: {config.data.train_path} holds no usable row.")
    return data


def _files(setting: str, path: Path) -> list[Path]:
    """A file, or the files of a folder that can be read.

    Raises:
        ConfigError: there is none.
    """
    if path.is_file():
        return [path]
    found = [p for p in sorted(path.glob("*")) if p.suffix in READERS] if path.is_dir() else []
    if not found:
        what = f"holds no {' or '.join(READERS)} file" if path.is_dir() else "does not exist"
        raise ConfigError(f"{setting}: {path} {what}.")
    return found


def _score(
    model: AdaptedModel,
    rows: tuple[Example, ...],
    config: RoundConfig,
    title: str,
    progress: Progress,
) -> dict[str, Any]:
    tasks = tasks_by_group("eval", rows)
    report, _ = evaluate(
        model,
        tasks,
        config.evaluation,
        title=title,
        progress=progress,
    )
    return report.to_json()


def _write(
    trained: TrainedModel, data: PreparedData, results: dict[str, Any], output: Path
) -> dict[str, Any]:
    trained.model.tokenizer.save_pretrained(output)
    rows = list(files.read_jsonl(output / "metrics.jsonl"))
    draw_loss([r["step"] for r in rows], [r["loss"] for r in rows], output / "training_loss.png")
    results = results | {"data": data.report.to_json()}
    files.write_json(output / "all_results.json", results)
    trained.model.network.save_pretrained(output)  # last: a folder with weights is complete
    return results
