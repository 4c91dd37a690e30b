"""Which settings somebody may give who reaches this machine by a page alone.

Such a person starts trainings, and that is all: no setting of theirs runs a program, sends
anything elsewhere, or reads and writes outside one folder. What the settings file of a workspace
has already, whoever may write that file has allowed.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from llama_factory.config.schema import RunConfig
from llama_factory.core.errors import FactoryError, suggest
from llama_factory.core.settings import Settings
from llama_factory.data.sources.files import leaves
from llama_factory.data.sources.named import local_names
from llama_factory.jobs.row_choices import may_hold_rows, row_choices
from llama_factory.model.source import SHORT_NAMES

REFUSED = {
    "plugins": "runs Python files",
    "model.trust_remote_code": "runs programs that come with a model",
    "training.checkpoint_mirror": "copies files to other places",
    "training.preemption_notice": "asks other addresses",
    "upload_to": "sends the model to another address",
}
"""Settings that are left to the settings file and the command line, and why."""
REFUSED_PARTS = {
    "custom": "runs a Python file",
    "pass_rate": "runs programs",
    "preference": "asks another address",
    "mlflow": "sends numbers to another address",
    "wandb": "sends numbers to another address",
}
"""Metrics and reporters of the same kind."""
BY_HAND = (
    "This is not taken from a page: set it in the settings file of the workspace, or start the "
    "run on the command line."
)
MODELS = ("model.base_model", "training.objective.teacher")
"""Settings that name a model: a folder, a short name or a hub id."""
SETS = ("data.dataset", "data.eval_dataset")


def refusals(config: RunConfig, folder: Path, own: RunConfig | None = None) -> dict[str, str]:
    """What of some settings may not come from a page.

    Args:
        config: the settings.
        folder: which no path of them may leave; relative ones begin there.
        own: settings of the workspace; what is there already is allowed.

    Returns:
        By name of a setting what is wrong, and what to do.
    """
    allowed = dict(_values(own)) if own else {}
    found = {}
    for name, value in _values(config):
        if allowed.get(name) == value:
            continue
        problem = _problem(name, value, folder)
        if problem:
            found[name] = problem
    return found | dict(_unknown_sets(config, folder))


def _values(settings: Settings, before: str = "") -> Iterator[tuple[str, Any]]:
    """Every setting with its name; those of parts too."""
    for name in type(settings).model_fields:
        value, full = getattr(settings, name), f"{before}{name}"
        yield full, value
        if isinstance(value, Settings):
            yield from _values(value, f"{full}.")
        for number, each in enumerate(value if isinstance(value, list) else ()):
            if isinstance(each, Settings):
                yield f"{full}.{number}", each
                yield from _values(each, f"{full}.{number}.")


def _problem(name: str, value: Any, folder: Path) -> str:
    if name in REFUSED and value:
        return f"{REFUSED[name]}. {BY_HAND}"
    if isinstance(value, Settings) and (kind := _refused_part(value)):
        return f"'{kind}' {REFUSED_PARTS[kind]}. {BY_HAND}"
    if name in MODELS:
        return _model_problem(str(value), folder)
    paths = value if isinstance(value, list) else [value]
    problem = next((_path_problem(each, folder) for each in paths if _leaves(each, folder)), "")
    if not problem and isinstance(value, Path) and _is_of_rows(name):
        return _row_problem(value, folder)
    return problem


def _is_of_rows(name: str) -> bool:
    return name.startswith("data.") or name.endswith((".guard", ".dataset"))


def _row_problem(path: Path, folder: Path) -> str:
    if path == RunConfig().data.dataset_dir or may_hold_rows(folder / path, folder):
        return ""
    known = row_choices(folder).paths
    return (
        f"'{str(path)[:200]}' holds no rows that can be taught.{suggest(str(path), known)} Put "
        "the file into a folder here."
    )


def _refused_part(part: Settings) -> str:
    kind = type(part).__module__.rpartition(".")[2]
    return kind if kind in REFUSED_PARTS else ""


def _leaves(value: Any, folder: Path) -> bool:
    return isinstance(value, Path) and (
        str(value).startswith("~") or "\0" in str(value) or leaves(folder / value, folder)
    )


def _path_problem(path: Path, folder: Path) -> str:
    return (
        f"'{str(path)[:200]}' lies outside the folder {folder.name}. Give a path in it, or put "
        "the file there."
    )


def _model_problem(name: str, folder: Path) -> str:
    if name in SHORT_NAMES:
        return ""
    path = Path(name)
    if _leaves(path, folder):
        return _path_problem(path, folder)
    if (folder / path).is_dir():
        is_model = (folder / path / "config.json").is_file()
        return "" if is_model else f"the folder '{name}' holds no config.json, so it is no model."
    if name.count("/") == 1 and not name.startswith("."):
        return ""
    return (
        f"'{name[:200]}' is neither a folder here, a known name nor a hub id (owner/name)."
        f"{suggest(name, SHORT_NAMES)} Known names: {', '.join(SHORT_NAMES)}."
    )


def _unknown_sets(config: RunConfig, folder: Path) -> Iterator[tuple[str, str]]:
    """Named sets that are not among those of the folder's own `dataset_info.json`."""
    data = config.data
    wanted: Mapping[str, list[str]] = {SETS[0]: data.dataset, SETS[1]: data.eval_dataset}
    if not any(wanted.values()) or _leaves(data.dataset_dir, folder):
        return
    try:
        known = local_names(folder / data.dataset_dir)
    except FactoryError as error:
        yield "data.dataset_dir", str(error)
        return
    for setting, names in wanted.items():
        for name in names:
            if name not in known:
                listed = ", ".join(known[:10]) or "nothing"
                yield (
                    setting,
                    f"'{name[:100]}' is not in dataset_info.json of the folder "
                    f"'{data.dataset_dir}', with its file beside it.{suggest(name, known)} It has: "
                    f"{listed}.",
                )
