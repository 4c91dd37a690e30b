"""Tiny models and rows for strategies, and a run of a few updates."""

import torch

from llama_factory.core.progress import SILENT
from llama_factory.core.types import Example, Message
from llama_factory.model.adapted import adapt
from llama_factory.model.chat.encoding import EncodeOptions
from llama_factory.model.settings import ModelSettings
from llama_factory.training.loop import Protection, TrainingFolders, train
from llama_factory.training.settings import TrainingSettings


def rows(group, count, start=0):
    """Rows in Chinese and English, of different lengths."""
    return [
        Example(
            (
                Message("user", f"{group} 第{i}个问题是什么？"),
                Message("assistant", f"答案是 {i}. It is so. " * (1 + i % 3)),
            ),
            group,
            f"{group}.jsonl",
            i,
        )
        for i in range(start, start + count)
    ]


def make(folder, seed=0, parent=None, **adapter):
    """A tiny model with LoRA of rank 4, or with another adapter; fresh or a parent's."""
    chosen = adapter if "type" in adapter else {"type": "lora", "rank": 4} | adapter
    settings = ModelSettings(base_model=str(folder), dtype="float32", adapter=chosen)
    return adapt(settings, parent, options=EncodeOptions(128), seed=seed)


def reopened(model, folder, path):
    """A model as the next round finds it: saved and read again, nothing frozen."""
    model.save(path)
    return make(folder, parent=path)


def shake(model, scale=0.1, seed=1):
    """Move all trained weights at random."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in model.trainable().values():
            weight += scale * torch.randn(weight.shape, generator=generator)
    return model


def fit(model, path, taught, strategies=(), memory=None, **options):
    """A short run."""
    protection = Protection(tuple(strategies), *([] if memory is None else [memory]))
    folders = TrainingFolders(
        path / "checkpoints", path / "metrics.jsonl", path / "runs", path / "tokens"
    )
    settings = TrainingSettings(**({"learning_rate": 1e-2, "max_steps": 4} | options))
    return train(model, taught, settings, protection, folders=folders, progress=SILENT)


def flat(model):
    """All trained weights as one vector."""
    return torch.cat([w.detach().flatten() for w in model.trainable().values()])
