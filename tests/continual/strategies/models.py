"""Tiny models with adapters that have learned something, and rows as micro-batches."""

import torch

from llama_factory.core.types import Example, Message
from llama_factory.model.adapted import AdaptedModel, adapt
from llama_factory.model.chat.encoding import EncodeOptions, encode
from llama_factory.model.output_head import TokenLogProbs
from llama_factory.model.padding import pad
from llama_factory.model.settings import ModelSettings
from llama_factory.training.objectives import MicroBatch
from llama_factory.training.objectives.sft import Sft

OPTIONS = EncodeOptions(128)


def make(folder, parent=None, **adapter):
    """A model with a fresh adapter, or a parent's: LoRA of rank 8 where nothing else is said."""
    options = adapter if "type" in adapter else {"type": "lora", "rank": 8} | adapter
    settings = ModelSettings(base_model=str(folder), dtype="float32", adapter=options)
    return adapt(settings, parent, options=OPTIONS, seed=0)


def disturb(model: AdaptedModel, seed: int = 0, size: float = 0.1) -> None:
    """Move every trained weight, as a round of training would."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in model.trainable().values():
            weight += size * torch.randn(weight.shape, generator=generator)


def examples(count, group="g"):
    turns = [
        (Message("user", f"{group} 问题 {i}?"), Message("assistant", "it is 好 " * (1 + i % 4)))
        for i in range(count)
    ]
    return [Example(pair, group, "f.jsonl", i) for i, pair in enumerate(turns)]


def micro_batch(model, **rows):
    """Rows by source as one micro-batch; every trained token counts the same."""
    every = [
        (name, encode(row, model.tokenizer, OPTIONS)) for name, some in rows.items() for row in some
    ]
    ids, targets = pad([row for _, row in every])
    counts = torch.tensor([row.num_trained for _, row in every])
    sequence_of = torch.repeat_interleave(torch.arange(len(every)), counts)
    row_sources = torch.tensor([list(rows).index(name) for name, _ in every])
    parts = torch.bincount(row_sources[sequence_of], minlength=len(rows)) / counts.sum()
    return MicroBatch(
        ids=ids,
        targets=targets,
        coefficients=torch.full((int(counts.sum()),), 1 / int(counts.sum())),
        sources=row_sources[sequence_of],
        sequence_of=sequence_of,
        row_coefficients=counts / counts.sum(),
        row_sources=row_sources,
        reference=torch.zeros(len(every)),
        is_desirable=torch.ones(len(every), dtype=torch.bool),
        source_names=tuple(rows),
        source_shares=tuple(parts.tolist()),
        objective=Sft(),
    )


def forward(model, batch):
    """[trained tokens] log-probabilities with their graph, as the loop makes them."""
    return TokenLogProbs(model.network)(batch.ids, batch.targets)
