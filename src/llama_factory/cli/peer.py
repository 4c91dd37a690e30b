"""LLaMA-Factory's own commands where ours have other words: `api`, `chat FILE`, `env`, `help`."""

import json
import os
import platform
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llama_factory.cli import web
from llama_factory.cli.options import read_words
from llama_factory.cli.terminal import TerminalProgress
from llama_factory.config.changes import Change, read_changes
from llama_factory.config.dialects.answering import ModelRequest, answer_request
from llama_factory.config.dialects.exporting import read_flat
from llama_factory.core import __version__
from llama_factory.core.errors import ConfigError

if TYPE_CHECKING:
    from llama_factory.jobs.model_reference import ModelReference

LIBRARIES = (
    *("torch", "transformers", "peft", "datasets", "lightning-fabric", "accelerate"),
    *("bitsandbytes", "liger-kernel", "deepspeed", "vllm", "modelscope"),
)
"""What matters to a report of a fault."""
HARNESS = {"mmlu": "mmlu", "cmmlu": "cmmlu", "ceval": "ceval-valid"}
"""LLaMA-Factory's task without its split -> lm-evaluation-harness' task."""
TEST_KEYS = ("task", "save_dir", "task_dir", "lang", "n_shot", "batch_size", "download_mode")
"""Keys of LLaMA-Factory's tests that say nothing of the model."""
SETTINGS_FILES = (".yaml", ".yml", ".json")

ModelWords = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[FILE] [KEY=VALUE]... [--KEY VALUE]...",
        help="LLaMA-Factory's YAML, and changes to it.",
        show_default=False,
    ),
]


def is_theirs(words: Sequence[str]) -> bool:
    """Whether words name a model in LLaMA-Factory's way, and no workspace."""
    return any(word.startswith("-") or "=" in word for word in words) or (
        len(words) == 1 and words[0].endswith(SETTINGS_FILES) and not Path(words[0]).is_dir()
    )


def names_model(words: Sequence[str]) -> bool:
    """Whether words name a model with a file or a flag, so that the page is not a workspace's."""
    return any("model_name_or_path" in word for word in words) or bool(
        words and words[0].endswith(SETTINGS_FILES) and not Path(words[0]).is_dir()
    )


def read_model(words: Sequence[str]) -> ModelRequest:
    """The model that a YAML, `key=value` and flags name; what differs is said."""
    said = read_words(words)
    asked = answer_request(said.path, said.changes)
    for note in asked.notes:
        print(f"Note: {note}")
    return asked


def reference(asked: ModelRequest) -> "ModelReference":
    """The model as the verbs take it."""
    from llama_factory.jobs.model_reference import ModelReference

    return ModelReference(asked.source, base=asked.base, changes=list(asked.changes))


def api(words: ModelWords = None) -> None:
    """The API of a model as LLaMA-Factory names it; API_HOST, API_PORT and API_KEY hold."""
    from llama_factory import operate

    given = words or []
    if given and not is_theirs(given):
        operate.serve(given[0], (), lambda text: print(text, flush=True))
        return
    asked = read_model(given)
    changes = ["serving.any_model=true", *asked.changes]  # a fixed name is what their clients send
    operate.serve(reference(asked), changes, lambda text: print(text, flush=True))


def webchat(words: ModelWords = None) -> None:
    """The page of a model as LLaMA-Factory names it, to talk to it there; or of a workspace."""
    from llama_factory.web.server import WebOptions

    given = words or []
    if not names_model(given):
        page = typer.Typer(add_completion=False)
        page.command()(web.web)
        page(given, prog_name="llama-factory webchat")
        return
    asked = read_model(given)
    with reference(asked).opened() as workspace:
        web.show(workspace.folder, WebOptions(changes=("serving.any_model=true", *asked.changes)))


def evaluate_tasks(words: ModelWords = None) -> None:
    """mmlu, cmmlu and ceval of a model as LLaMA-Factory names it, where their data are here."""
    from llama_factory import use
    from llama_factory.cli.evaluate import print_suites
    from llama_factory.model.source import resolve

    said = read_words(words or [])
    chosen = read_changes(said.changes)
    given = (read_flat(said.path) if said.path else {}) | {c.name: c.value for c in chosen}
    own = {name: given.pop(name) for name in TEST_KEYS if given.get(name) is not None}
    task, suite = _suite_of(own)
    asked = answer_request(None, [Change(name, given[name], name) for name in given])
    source = asked.source if asked.base else str(resolve(asked.source))
    model = replace(reference(asked), name=source)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"{task}.yaml"
        path.write_text(json.dumps({"suites": [suite]}))
        print_suites(use.evaluate(model, [str(path)], own.get("save_dir"), TerminalProgress()))


def _suite_of(own: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """The task's name, and the suite that asks it: files in `task_dir`, else the harness."""
    task, _, split = str(own.get("task", "mmlu_test")).partition("_")
    folder = Path(str(own.get("task_dir", "evaluation"))) / task
    if folder.is_dir():
        chosen = {"split": split or "test", "language": own.get("lang", "en")}
        chosen |= {"examples": own.get("n_shot", 5), "folder": str(folder.resolve())}
        return task, {"type": "multiple_choice", **chosen}
    if task not in HARNESS:
        raise ConfigError(
            f"task: '{task}' is not known. Known: {', '.join(HARNESS)}; or any folder of task_dir "
            f"with test/NAME.csv, which {folder} is not."
        )
    return task, {"type": "harness", "tasks": [HARNESS[task]]}


def env() -> None:
    """Versions of this program, its libraries and the machine: what a report of a fault needs."""
    print(f"- llama-factory version: {__version__}")
    print(f"- Platform: {platform.platform()}")
    print(f"- Python version: {platform.python_version()}")
    print(f"- CPU cores: {os.cpu_count()}")
    for name in LIBRARIES:
        print(f"- {name} version: {_version(name)}")
    import torch

    for number in range(torch.cuda.device_count()):
        memory = torch.cuda.get_device_properties(number).total_memory / 2**30
        print(f"- GPU {number}: {torch.cuda.get_device_name(number)}, {memory:.1f} GiB")
    if not torch.cuda.is_available():
        print("- GPU: none")


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def help_page(context: typer.Context) -> None:
    """All commands."""
    assert context.parent is not None, "it is a command of the program"
    print(context.parent.get_help())


def adopt(
    output_dir: Annotated[Path, typer.Argument(help="Folder of an adapter (PEFT).")],
    folder: Annotated[Path, typer.Argument(help="The new workspace.")],
    settings: Annotated[
        Path | None,
        typer.Option(help="LLaMA-Factory's YAML that it was trained with: its rows, its template."),
    ] = None,
    data: Annotated[
        list[Path] | None, typer.Option(help="A file with rows that it was taught.")
    ] = None,
) -> None:
    """Make a workspace that goes on from an adapter trained elsewhere: its version v0001."""
    from llama_factory import run

    version = run.adopt(output_dir, folder, settings, data or [], TerminalProgress())
    print(f"{version.id} of {folder} is {output_dir}, and it is released.")
    if version.num_rows:
        print(f"  {version.num_rows} rows are its history: they are not taught again.")
    else:
        print("  No rows were given (--settings, --data): what it was taught is not known.")
    print(f"  put new files into {folder}/inbox/ and run: llama-factory learn {folder}")
