"""The verbs of whoever uses a model: evaluate it, let it answer files, merge it, talk to it.

As those of `run.py`: a model is a workspace, folders of adapters, a base model or a reference.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from llama_factory.config.changes import Changes, read_changes
from llama_factory.config.loading import load_config, load_to_answer
from llama_factory.core.progress import SILENT, Progress
from llama_factory.jobs.model_reference import ModelLike, ModelReference
from llama_factory.model.settings import ExportOptions
from llama_factory.versions import store
from llama_factory.versions.releases import PRODUCTION
from llama_factory.versions.workspace import PathLike

if TYPE_CHECKING:
    from llama_factory.config.schema import RunConfig
    from llama_factory.data.augment import Augmentation
    from llama_factory.evaluation.suites import SuiteResult
    from llama_factory.jobs.predict import PredictReport
    from llama_factory.model.export import Exported
    from llama_factory.serving.chat import ChatModel, ChatSession


def evaluate(
    model: ModelLike,
    suites: Sequence[str] = (),
    output: PathLike | None = None,
    progress: Progress = SILENT,
) -> list[SuiteResult]:
    """Run suites on a model; predictions and results.json are in the output folder.

    Args:
        model: a workspace, folders of adapters, or a `ModelReference`, which may name a version.
        suites: their names or files; none: those that fit the model.
        output: None: `evaluations` in the workspace, or in the current folder.
        progress: shows how far it is.
    """
    from llama_factory.evaluation.suites import Bench, choose_suites, run_suites

    reference = ModelReference.of(model)
    config, tasks = _config_of(reference), reference.tasks()
    chosen = choose_suites(suites, tasks)
    from llama_factory.model.chat.encoding import encode_options

    saved = reference.find(config.model)
    opened = saved.open(encode_options(config.data))
    folder = Path(output or reference.evaluations)
    bench = Bench(opened, saved.identity(), tasks, config.evaluation, folder, progress)
    return run_suites(chosen, bench)


def predict(
    model: ModelLike,
    path: PathLike,
    output: PathLike,
    *,
    metrics: Sequence[str] = (),
    progress: Progress = SILENT,
) -> PredictReport:
    """Answer every row of a file and judge the answers; a stopped run goes on."""
    reference = ModelReference.of(model)
    config = _config_of(reference, {"evaluation.metrics": list(metrics)} if metrics else {})
    from llama_factory.jobs.predict import predict_file, usual_metrics

    judged = config.evaluation.metrics if metrics else usual_metrics(config.evaluation)
    saved = reference.find(config.model)
    rows, answers = Path(path), Path(output)
    return predict_file(saved, rows, answers, config, metrics=judged, progress=progress)


def export(
    model: ModelLike,
    output: PathLike,
    *,
    prompts: PathLike | None = None,
    dtype: str | None = None,
    shard_size: str = "5GB",
    progress: Progress = SILENT,
) -> Exported:
    """Merge a trained model into one that needs no adapter, checked on prompts."""
    reference = ModelReference.of(model)
    config = _config_of(reference)
    options = ExportOptions(dtype, shard_size, config.data.enable_thinking)
    options.check()
    from llama_factory.evaluation.evaluator import BUILT_IN_GUARD
    from llama_factory.jobs.predict import read_rows
    from llama_factory.model.export import export as write

    rows, saved = read_rows(Path(prompts or BUILT_IN_GUARD), progress), reference.find(config.model)
    return write(saved, Path(output), rows, options=options, progress=progress)


def _config_of(reference: ModelReference, changes: Changes = ()) -> RunConfig:
    """The settings of the workspace, or the usual ones, with what was changed."""
    changed = [*read_changes(reference.changes), *read_changes(changes)]
    return load_config(reference.settings, changed)


def load(model: ModelLike, version: str | None = None) -> ChatModel:
    """A model that answers in this process.

    Args:
        model: a workspace, the folder that training wrote, a base model's name, or a reference.
        version: of a workspace: id or alias; None for the released one.

    Example:
        >>> print(lf.load("my-bot", version="v0002").chat("How long is the warranty?"))
    """
    reference = ModelReference.of(model, version)
    with reference.opened() as workspace:
        config = load_to_answer(workspace.settings, reference.changes)
        chosen = store.get(workspace, reference.version or PRODUCTION)
        from llama_factory.model.chat.encoding import encode_options
        from llama_factory.serving.chat import open_model

        usual, limit = encode_options(config.data).format, config.serving.max_tokens
        return open_model(
            config.model, chosen, max_tokens=limit, usual=usual, inference=config.inference
        )


@contextmanager
def local_writers(methods: Iterable[Augmentation]) -> Iterator[None]:
    """Models that paraphrase in this process are open for as long as this lasts.

    Args:
        methods: of augmentation; those whose `writer` names a workspace or a model need it.

    Example:
        >>> methods = parse_methods([{"type": "paraphrase", "writer": "my-bot"}])
        >>> with lf.local_writers(methods):
        ...     rows = DataAugmenter(methods).process(rows)
    """
    names = {name for each in methods if (name := getattr(each, "writer", ""))}
    if not names:
        yield
        return
    from llama_factory.data.augment.paraphrase import open_writers
    from llama_factory.serving.chat import writer_of

    named = {name: name.partition("@")[::2] for name in names}
    models = {name: load(model, version or None) for name, (model, version) in named.items()}
    with open_writers({name: writer_of(model) for name, model in models.items()}):
        yield


def chat(model: ModelLike, version: str | None = None) -> ChatSession:
    """A conversation with a model, which remembers its turns; see `load`."""
    return load(model, version).conversation()
