"""Rows, tiny models and runs of a few updates."""

import torch

from llama_factory.core.files import read_jsonl
from llama_factory.core.progress import SILENT
from llama_factory.core.types import Example, Message
from llama_factory.model.adapted import adapt
from llama_factory.model.chat.encoding import EncodeOptions
from llama_factory.model.settings import ModelSettings
from llama_factory.training.loop import Protection, TrainingFolders, train
from llama_factory.training.settings import TrainingSettings


def examples(count, group="g"):
    turns = [
        (Message("user", f"Question {i}?"), Message("assistant", f"It is {i}. " * (1 + i % 5)))
        for i in range(count)
    ]
    return [Example(pair, group, "f.jsonl", i) for i, pair in enumerate(turns)]


def make(tiny, dropout=0.0, **options):
    adapter = {"type": "lora", "rank": 4, "dropout": dropout}
    settings = ModelSettings(base_model=str(tiny), dtype="float32", adapter=adapter, **options)
    return adapt(settings, None, options=EncodeOptions(128), seed=0)


def folders(path):
    return TrainingFolders(
        path / "checkpoints", path / "metrics.jsonl", path / "runs", path / "tokens"
    )


def fit(tiny, path, rows=None, protection=None, model=None, held_out=(), say=None, **options):
    settings = TrainingSettings(**({"learning_rate": 1e-2, "max_steps": 6} | options))
    return train(
        model or make(tiny),
        rows or examples(13),
        settings,
        protection or Protection(),
        folders=folders(path),
        progress=SILENT if say is None else Told(say),
        held_out=held_out,
    )


class Told:
    """Progress that keeps its sentences."""

    def __init__(self, said):
        self.say = said.append
        self.bar = SILENT.bar


def weights(trained):
    return flat(trained.model.trainable().values())


def flat(weights):
    return torch.cat([weight.detach().flatten() for weight in weights])


def losses(path):
    return [row["loss"] for row in read_jsonl(path / "metrics.jsonl")]
