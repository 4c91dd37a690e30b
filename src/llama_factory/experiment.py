"""The verbs of whoever tries settings: read a file of them, check, begin runs, compare runs.

As those of `run.py`, but for a folder in which single runs lie: a workspace, or any other one.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from llama_factory.config.changes import Changes
from llama_factory.config.confined import refusals
from llama_factory.config.loading import SettingsSource, flat_problems, load_config
from llama_factory.config.minimal import as_changes, minimal, to_yaml
from llama_factory.config.schema import RunConfig
from llama_factory.config.setting_sentences import NO_ROWS
from llama_factory.core.errors import ConfigError, FactoryError
from llama_factory.core.progress import SILENT, Progress
from llama_factory.core.sentences import kind_of_sentence as kind
from llama_factory.versions.workspace import SETTINGS_FILE, PathLike, Workspace

RUN_LOST = kind("problem.run_lost", "There is no run '{name}' here, or its settings are lost.")
MARKED = kind("problem.marked", "Mend what is marked first.")

if TYPE_CHECKING:
    from llama_factory.jobs.background import BackgroundJob
    from llama_factory.jobs.planning.model_plan import ModelPlan
    from llama_factory.jobs.planning.run_plan import RunPlan
    from llama_factory.jobs.row_choices import RowChoices
    from llama_factory.jobs.run_comparison import RunComparison
    from llama_factory.jobs.single_runs import QueuedRun


@dataclass(frozen=True)
class CheckedRun:
    """Settings of a single run, checked as they would be where it begins.

    Attributes:
        problems: what is wrong, by the name of a setting; `name` for the run's own.
        values: what differs from the defaults; empty where that cannot be known.
        yaml: the settings file of the run.
        command: that starts it, in its folder.
        in_flags: the same without a settings file.
    """

    problems: Mapping[str, str]
    values: Mapping[str, Any]
    yaml: str
    command: str
    in_flags: str


def run_settings(folder: PathLike) -> dict[str, Any]:
    """What the settings of a workspace say about a single run; nothing of another folder.

    Raises:
        ConfigError: they are wrong.
    """
    from llama_factory.config.pasted import OF_A_RUN

    own = _own(Path(folder))
    found = minimal(own) if own else {}
    return {name: each for name, each in found.items() if name in OF_A_RUN}


def check_run(folder: PathLike, values: Mapping[str, Any], name: str) -> CheckedRun:
    """What a run of these settings would be, and all that is wrong with it. Nothing is written.

    Args:
        folder: a workspace, or a folder of runs; paths of the settings begin there and stay in it.
        values: settings as a native file holds them.
        name: of the run.
    """
    from llama_factory.jobs.single_runs import name_problem, output_of, words_of

    place = Workspace(Path(folder).resolve())
    problems: dict[str, str] = {}
    try:
        own = _own(place.folder)
    except FactoryError as error:
        own, problems[""] = None, str(error)
    try:
        config = RunConfig.model_validate(_with_allowed(values, own))
    except ValidationError as error:
        for location, message in flat_problems(error.errors()):
            problems.setdefault(".".join(map(str, location)), message)
        return CheckedRun(problems, {}, "", "", "")
    problems |= refusals(config, place.folder, own)
    if not config.data.train_path and not config.data.dataset:
        problems.setdefault("data.train_path", NO_ROWS())
    try:
        config.training.check()
    except ConfigError as error:
        problems.setdefault("", str(error))
    if problem := name_problem(place, name, overwrites=config.overwrite_output_dir):
        return CheckedRun(problems | {"name": problem}, {}, "", "", "")
    written = minimal(config) | {"output_dir": output_of(name)}
    flags = ["llama-factory", "train", *as_changes(written)]
    command = shlex.join(["llama-factory", *words_of(name)])
    return CheckedRun(problems, written, to_yaml(written), command, shlex.join(flags))


def begin_run(
    folder: PathLike, values: Mapping[str, Any], name: str, who: str = ""
) -> BackgroundJob:
    """Put a run into the queue of its folder; it begins once all before it have ended.

    Raises:
        ConfigError: something is wrong with it, see `check_run`.
    """
    from llama_factory.jobs import single_runs

    checked = check_run(folder, values, name)
    if checked.problems:
        found = [": ".join(filter(None, each)) for each in checked.problems.items()]
        raise ConfigError("\n".join(found))
    place = Workspace(Path(folder).resolve())
    overwrites = bool(values.get("overwrite_output_dir"))
    return single_runs.begin(place, name, checked.yaml, who, overwrites=overwrites)


def continue_run(folder: PathLike, name: str, who: str = "") -> BackgroundJob:
    """Put a run that was stopped into the queue again; it goes on from its last checkpoint."""
    from llama_factory.jobs import single_runs

    return single_runs.go_on(Workspace(Path(folder).resolve()), name, who)


def queue(folder: PathLike, last: int = 30) -> list[QueuedRun]:
    """Runs that were begun in a folder, the newest first."""
    from llama_factory.jobs.single_runs import list_runs

    return list_runs(Workspace(Path(folder).resolve()), last)


def free_name(folder: PathLike) -> str:
    """A name that no run of a folder has."""
    from llama_factory.jobs import single_runs

    return single_runs.free_name(Workspace(Path(folder).resolve()))


def rows_to_choose(folder: PathLike) -> RowChoices:
    """The rows below a folder that a run may be taught."""
    from llama_factory.jobs.row_choices import row_choices

    return row_choices(Path(folder).resolve())


def settings_of_run(folder: PathLike, name: str) -> dict[str, Any]:
    """The settings of a run that was begun in a folder, as far as they differ from the defaults.

    Raises:
        ConfigError: there is none of that name, or its file is wrong.
    """
    from llama_factory.config.pasted import OF_A_RUN, read_pasted
    from llama_factory.jobs.single_runs import settings_of

    path = settings_of(Workspace(Path(folder).resolve()), name)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        raise ConfigError(RUN_LOST(name=name)) from None
    found = read_pasted(text).values
    return {key: each for key, each in found.items() if key in OF_A_RUN}


def run_names(folder: PathLike) -> list[str]:
    """Every single run below a folder, the latest first."""
    from llama_factory.jobs import run_comparison

    return run_comparison.run_names(Path(folder))


def compare_runs(
    folder: PathLike, runs: Sequence[str], versions: Sequence[str] = ()
) -> RunComparison:
    """Settings, losses, scores and costs of runs and of a workspace's versions side by side.

    Args:
        folder: a workspace, or a folder of runs.
        runs: as `run_names` names them.
        versions: ids.
    """
    from llama_factory.jobs import run_comparison

    place = Path(folder).resolve()
    return run_comparison.compare_runs(place, runs, versions, read=_all_settings)


def _all_settings(path: Path) -> Mapping[str, Any]:
    """All settings of a file, defaults too; what the file says where a part is unknown here."""
    from llama_factory.config.pasted import read_pasted

    values = read_pasted(path.read_text(encoding="utf-8")).values
    try:
        return RunConfig.model_validate(values).model_dump(mode="json")
    except ValidationError:
        return values


def estimate(
    settings: SettingsSource,
    changes: Changes = (),
    progress: Progress = SILENT,
) -> RunPlan:
    """Memory and time of a run, before it begins: rows are read, weights are not.

    Args:
        settings: see `run.train`.
        changes: the same.
        progress: shows how far it is.
    """
    config = load_config(settings, changes)
    from llama_factory.jobs.planning.run_plan import plan_this_run

    return plan_this_run(config, progress)


def plan(
    settings: SettingsSource,
    changes: Changes = (),
    *,
    gpus: str,
    tokens: int | None = None,
    trained_tokens: int | None = None,
    accelerators: Path | None = None,
) -> ModelPlan:
    """Memory, time and cost of training a model on accelerators, from its config alone.

    Args:
        settings: see `run.train`; rows are not read, and may be left out.
        changes: the same.
        gpus: which and how many, as `8xA100-40`, or `2x24G` for any of 24 GiB.
        tokens: that each computes at once; None for `data.max_tokens`.
        trained_tokens: of the whole run, for time and cost; None for a million.
        accelerators: a file with more of them, see `accelerators.yaml`.

    Raises:
        ConfigError: the accelerators are not known.
        ModelError: nothing is known of the model.
    """
    config = load_config(settings, changes)
    from llama_factory.jobs.planning.accelerators import read_cluster
    from llama_factory.jobs.planning.model_plan import PlanQuestion, plan_model

    cluster = read_cluster(gpus, accelerators)
    longest = config.data.max_tokens if tokens is None else tokens
    return plan_model(PlanQuestion(config.model, config.training, cluster, longest, trained_tokens))


def estimate_run(folder: PathLike, values: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The same for a run of a folder, in a process of its own; nothing is downloaded for it.

    Where a run of the same model and adapter was finished here, its speed counts.

    Raises:
        ConfigError: something is wrong with the run, see `check_run`.
    """
    from llama_factory.jobs.planning.outside import earlier_speed, estimate_outside
    from llama_factory.jobs.single_runs import OUTPUTS

    checked = check_run(folder, values, name)
    if checked.problems:
        raise ConfigError(MARKED())
    place = Path(folder).resolve()
    found = estimate_outside(place, checked.yaml)
    alike = {
        each.name: _trains(folder, each.name) == _kind_of(checked.values) for each in queue(folder)
    }
    speed = earlier_speed(place / OUTPUTS, alike)
    if speed is None:
        return found | {"is_measured": False}
    seconds = found["num_tokens"] / speed
    return found | {"is_measured": True, "tokens_per_second": speed, "seconds": seconds}


def _trains(folder: PathLike, name: str) -> tuple[Any, ...] | None:
    try:
        return _kind_of(settings_of_run(folder, name))
    except ConfigError:
        return None


def _kind_of(values: Mapping[str, Any]) -> tuple[Any, ...]:
    """Base model and adapter of settings: what speed depends on most."""
    model = values.get("model", {})
    return model.get("base_model"), model.get("adapter"), values.get("data", {}).get("max_tokens")


def job_of(folder: PathLike, job_id: str) -> tuple[BackgroundJob, str]:
    """A job of a folder and the end of what it printed."""
    from llama_factory.jobs.background import read_job, read_log

    place = Workspace(Path(folder).resolve())
    return read_job(place, job_id), read_log(place, job_id)


def stop_job(folder: PathLike, job_id: str) -> BackgroundJob:
    """Ask a job of a folder to stop at a safe point, or take it out of the queue."""
    from llama_factory.jobs import background

    return background.stop_job(Workspace(Path(folder).resolve()), job_id)


def _own(folder: Path) -> RunConfig | None:
    """The settings of a workspace, paths as full ones; None of a folder that is none.

    A run begins in the folder of the workspace, whose settings go by where a program is started.
    """
    settings = folder / SETTINGS_FILE
    if not settings.is_file():
        return None
    config = load_config(settings)
    base, guard = Path(config.model.base_model).expanduser(), config.evaluation.guard
    found: dict[str, Any] = {}
    if base.is_dir():
        found["model"] = config.model.model_copy(update={"base_model": str(base.resolve())})
    if guard and guard.exists():
        found["evaluation"] = config.evaluation.model_copy(update={"guard": guard.resolve()})
    return config.model_copy(update=found)


def _with_allowed(values: Mapping[str, Any], own: RunConfig | None) -> dict[str, Any]:
    """Settings with what no page can give and the workspace has: plugins, its model's code."""
    given = dict(values)
    if own is None:
        return given
    if own.plugins:
        given.setdefault("plugins", [str(each) for each in own.plugins])
    model = dict(given.get("model") or {})
    if own.model.trust_remote_code and model.get("base_model") == own.model.base_model:
        given["model"] = {"trust_remote_code": True} | model
    return given
