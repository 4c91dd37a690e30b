"""Runs and versions side by side: settings, loss, scores, cost; by their files, without a model."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llama_factory.core import files
from llama_factory.core.errors import ConfigError, FactoryError, VersionError
from llama_factory.core.types import EvalReport
from llama_factory.jobs.outputs import RESULTS
from llama_factory.jobs.runs import find_runs
from llama_factory.jobs.single_runs import updates
from llama_factory.model.provenance import ADAPTER_FILE
from llama_factory.versions import store
from llama_factory.versions.difference import flat, settings_of
from llama_factory.versions.workspace import SETTINGS_FILE, Workspace

MOST = 12
"""Runs side by side."""
LORA = {
    "r": "model.adapter.rank",
    "lora_alpha": "model.adapter.alpha",
    "lora_dropout": "model.adapter.dropout",
    "target_modules": "model.adapter.targets",
    "use_dora": "model.adapter.use_dora",
    "use_rslora": "model.adapter.use_rslora",
    "base_model_name_or_path": "model.base_model",
}
"""What an adapter's own file says, as settings: of runs whose settings file is not known."""
ALWAYS = (
    *("model.base_model", "model.adapter", "training.learning_rate", "training.epochs"),
    *("training.batch_size", "training.max_steps", "data.max_tokens"),
)
"""Settings that are shown even where all have the same."""
COSTS = ("steps", "tokens", "seconds", "tokens_per_second")


@dataclass(frozen=True)
class ComparedRun:
    """One of them.

    Attributes:
        name: of the run, or id of the version.
        settings: by full name, as far as they are known.
        losses: of the updates: their numbers, and each one's loss.
        scores: of held-out rows by task and metric: before training, where that is known, and
            after it.
        costs: updates, tokens, seconds of training, tokens per second.
        problem: what cannot be read of it.
    """

    name: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    losses: Sequence[tuple[int, float]] = ()
    scores: Mapping[str, tuple[float | None, float]] = field(default_factory=dict)
    costs: Mapping[str, float] = field(default_factory=dict)
    problem: str = ""


@dataclass(frozen=True)
class ComparedValue:
    """One line of a table: a value of each run; None where it has none, or none is known.

    Attributes:
        name: what it is.
        values: in the order of the runs.
    """

    name: str
    values: tuple[Any, ...]

    @property
    def differs(self) -> bool:
        """Whether those that are known are not all the same."""
        known = [each for each in self.values if each is not None]
        return any(each != known[0] for each in known[1:])


@dataclass(frozen=True)
class RunComparison:
    """Runs side by side.

    Attributes:
        runs: in the order in which they were named.
        settings: those that differ, and those that one asks for in any case.
        scores: after training.
        costs: of training.
    """

    runs: tuple[ComparedRun, ...]
    settings: tuple[ComparedValue, ...]
    scores: tuple[ComparedValue, ...]
    costs: tuple[ComparedValue, ...]


def run_names(folder: Path) -> list[str]:
    """Every single run below a folder, the latest first; rounds of workspaces are none."""
    root = folder.resolve()
    paths = [Path(row.folder).resolve() for row in find_runs(root)]
    inner = [each.relative_to(root) for each in paths if each.is_relative_to(root)]
    return [each.as_posix() for each in inner if not _is_hidden(each) and not _of_round(each, root)]


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _of_round(path: Path, root: Path) -> bool:
    """Whether a path lies in the versions of a workspace."""
    return any(
        part == "versions" and (root / Path(*path.parts[:number]) / SETTINGS_FILE).is_file()
        for number, part in enumerate(path.parts)
    )


def compare_runs(
    folder: Path,
    runs: Sequence[str],
    versions: Sequence[str] = (),
    *,
    read: Callable[[Path], Mapping[str, Any]],
) -> RunComparison:
    """Read runs and versions, and put what differs side by side.

    Args:
        folder: in which the runs lie; a workspace, where versions are named.
        runs: as `run_names` names them.
        versions: ids.
        read: gives the settings of a settings file, nested.

    Raises:
        ConfigError: there is no such run, or there are too many.
        VersionError: there is no such version.
    """
    if len(runs) + len(versions) > MOST:
        count = len(runs) + len(versions)
        raise ConfigError(f"{count} runs do not fit side by side: at most {MOST} do.")
    known = set(run_names(folder)) if runs else set()
    for name in runs:
        if name not in known:
            raise ConfigError(f"There is no run '{name[:80]}' here.")
    found = [_run(folder, name, read) for name in dict.fromkeys(runs)]
    found += [_version(Workspace(folder), name) for name in dict.fromkeys(versions)]
    return RunComparison(
        tuple(found),
        tuple(_settings(found)),
        tuple(_table(found, lambda each: {n: after for n, (_, after) in each.scores.items()})),
        tuple(_table(found, lambda each: each.costs)),
    )


def _settings(runs: Sequence[ComparedRun]) -> Iterator[ComparedValue]:
    for row in _table(runs, lambda each: _written(each.settings)):
        if row.name.split(".")[0] in ("output_dir", "plugins", "serving", "loop", "knowledge"):
            continue
        if row.differs or row.name.startswith(ALWAYS):
            yield row


def _written(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings in which what is left empty is a text: it is known."""
    return {name: "" if value is None else value for name, value in settings.items()}


def _table(runs: Sequence[ComparedRun], values_of: Any) -> Iterator[ComparedValue]:
    tables = [values_of(each) for each in runs]
    for name in dict.fromkeys(name for each in tables for name in each):
        yield ComparedValue(name, tuple(each.get(name) for each in tables))


def _run(folder: Path, name: str, read: Callable[[Path], Mapping[str, Any]]) -> ComparedRun:
    output = folder / name
    try:
        results = files.read_json(output / RESULTS) if (output / RESULTS).is_file() else {}
        training = results.get("training", {})
        before = _scores(results.get("before"))
        after = _scores(results.get("after"))
        return ComparedRun(
            name,
            _settings_of_run(output, read),
            _losses(output),
            {key: (before.get(key), value) for key, value in after.items()},
            {key: training[key] for key in COSTS if key in training},
        )
    except (OSError, ValueError, TypeError, KeyError, AttributeError, FactoryError) as error:
        return ComparedRun(name, problem=f"{name}: its files are damaged ({error!r}).")


def _settings_of_run(output: Path, read: Callable[[Path], Mapping[str, Any]]) -> dict[str, Any]:
    """Those of the settings file beside it; else what the adapter says."""
    beside = output.with_name(f"{output.name}.yaml")
    if beside.is_file():
        return dict(flat(read(beside)))
    if not (output / ADAPTER_FILE).is_file():
        return {}
    about = json.loads((output / ADAPTER_FILE).read_text(encoding="utf-8"))
    known = {setting: about[key] for key, setting in LORA.items() if about.get(key) is not None}
    targets = known.get("model.adapter.targets")
    return known | ({"model.adapter.targets": sorted(targets)} if isinstance(targets, list) else {})


def _version(workspace: Workspace, name: str) -> ComparedRun:
    version = store.get(workspace, name, verify=False)
    try:
        training = version.report.get("training", {})
        after = _scores(version.report.get("evaluation"))
        return ComparedRun(
            version.id,
            settings_of(version),
            _losses(version.folder),
            {key: (None, value) for key, value in after.items()},
            {key: training[key] for key in COSTS if key in training},
        )
    except (VersionError, OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        return ComparedRun(name, problem=f"{name}: its files are damaged ({error!r}).")


def _losses(folder: Path) -> tuple[tuple[int, float], ...]:
    rows = updates(folder)
    return tuple((row["current_steps"], float(row["loss"])) for row in rows if row.get("loss"))


def _scores(report: Any) -> dict[str, float]:
    if not report:
        return {}
    tasks = EvalReport.from_json(report).tasks
    return {
        f"{task}: {metric}": value
        for task, scored in tasks.items()
        for metric, value in scored.scores.items()
    }
