"""All settings of a run, and which of them there are by their dotted names."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self, get_args

from pydantic import model_validator

from llama_factory.core.sentences import kind_of_sentence
from llama_factory.core.settings import OneOf, Registry, Settings
from llama_factory.inference.settings import InferenceSettings
from llama_factory.jobs.on_ray import RaySettings
from llama_factory.knowledge.embedders import EMBEDDERS
from llama_factory.knowledge.settings import KnowledgeSettings
from llama_factory.model.adapters import ADAPTERS
from llama_factory.rounds.loop_settings import LoopSettings
from llama_factory.rounds.settings import LearningConfig
from llama_factory.serving.engines import ENGINES
from llama_factory.serving.settings import ServingSettings
from llama_factory.training.objectives import OBJECTIVES
from llama_factory.training.optimizers import OPTIMIZERS
from llama_factory.training.parallel import PARALLELS

NOTHING_TO_DO = kind_of_sentence(
    "settings.nothing_to_do",
    "do_train is off and so is do_predict: nothing is to be done. Turn one on; `llama-factory "
    "evaluate` tests a model.",
)


class RunConfig(LearningConfig):
    """The whole settings file."""

    inference: InferenceSettings = InferenceSettings()
    """How models compute their answers, in the chat and behind the API."""
    knowledge: KnowledgeSettings = KnowledgeSettings()
    """Documents that answers draw on, for facts that change too often to be taught."""
    serving: ServingSettings = ServingSettings()
    """The API server."""
    loop: LoopSettings = LoopSettings()
    """What `llama-factory watch` does by itself: when a round begins, and who is told."""
    ray: RaySettings = RaySettings()
    """Processes on a Ray cluster, for `llama-factory train --on ray`."""
    output_dir: Path | None = None
    """Where `llama-factory train` writes its adapter. A workspace does not need it."""
    overwrite_output_dir: bool = False
    """`llama-factory train` replaces a finished run in `output_dir`, once the new one is whole.
    Until then that one is made in a hidden folder beside it, so both take room on the disk. A run
    that was interrupted goes on in any case, and without `do_train` nothing is removed."""
    resume_from_checkpoint: bool | Path | None = None
    """Empty: `llama-factory train` goes on where an interrupted run of the same settings and rows
    stopped. A checkpoint of it: goes on from there. `true`: refuses to begin where there is none.
    `false`: begins anew, and keeps what is there in `checkpoints.replaced`."""
    log_dir: Path | None = None
    """Where `llama-factory train` writes TensorBoard's logs. Empty: `runs` in `output_dir`."""
    do_train: bool = True
    """`llama-factory train` trains. Off, with `do_predict`: it only answers, with the adapters in
    `model.adapter_paths` or with the base model alone."""
    do_predict: bool = False
    """Answer the held-out rows at the end: `generated_predictions.jsonl` with every answer,
    `predict_results.json` with BLEU and ROUGE."""

    upload_to: str = ""
    """Where `llama-factory train` puts the finished adapter or model: a repository of Hugging Face,
    as OWNER/NAME, which is made where there is none. HF_TOKEN must allow it. Empty: nowhere."""
    upload_is_private: bool = True
    """Whether a repository that is made for it is seen by its owner alone."""

    @model_validator(mode="after")
    def _does_something(self) -> Self:
        if not self.do_train and not self.do_predict:
            raise ValueError(NOTHING_TO_DO())
        return self


PARTS: Mapping[str, Registry[Any]] = {
    "knowledge.vectors": EMBEDDERS,
    "model.adapter": ADAPTERS,
    "serving.engine": ENGINES,
    "training.objective": OBJECTIVES,
    "training.optimizer": OPTIMIZERS,
    "training.parallel": PARALLELS,
}
"""Settings whose own settings depend on their `type`."""


def has(path: str, types: Mapping[str, Any]) -> bool:
    """Whether there is a setting.

    Args:
        path: `training.epochs`, `model.adapter.rank`.
        types: the `type` of each part in `PARTS`.
    """
    owner, _, name = path.rpartition(".")
    if owner not in PARTS:
        return _has_field(RunConfig, path.split("."))
    known = PARTS[owner].parts
    chosen = types.get(owner)
    return chosen in known and (name == "type" or name in known[chosen].model_fields)


def is_anywhere(path: str) -> bool:
    """Whether there is a setting of that name, whatever the types of parts are."""
    owner, _, _ = path.rpartition(".")
    names = PARTS[owner].parts if owner in PARTS else ("",)
    return any(has(path, {owner: name}) for name in names)


def is_section(path: str) -> bool:
    """Whether a name is that of a section: settings of one kind, and no part that is picked."""
    kind: Any = RunConfig
    for name in path.split("."):
        field = kind.model_fields.get(name)
        if field is None or any(isinstance(mark, OneOf) for mark in field.metadata):
            return False
        kind = field.annotation
        if not (isinstance(kind, type) and issubclass(kind, Settings)):
            return False
    return True


def choices(path: str) -> tuple[Any, ...]:
    """What a setting with a fixed choice may be: values, or the names of parts."""
    *sections, name = path.split(".")
    settings: type[Settings] = RunConfig
    for section in sections:
        found = settings.model_fields[section].annotation
        assert isinstance(found, type)
        settings = found
    field = settings.model_fields[name]
    parts = next((mark.registry.parts for mark in field.metadata if isinstance(mark, OneOf)), None)
    return tuple(parts) if parts is not None else get_args(field.annotation)


def _has_field(settings: type[Settings], steps: list[str]) -> bool:
    field = settings.model_fields.get(steps[0])
    if field is None:
        return False
    if len(steps) == 1:
        return True
    kind = field.annotation
    if isinstance(kind, type) and issubclass(kind, Settings):
        return _has_field(kind, steps[1:])
    return False
