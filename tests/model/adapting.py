"""What the tests of adapters share: every type in a small form, and short trainings with it."""

import torch

from llama_factory.core.progress import SILENT
from llama_factory.core.types import Example, Message
from llama_factory.model.adapted import adapt
from llama_factory.model.chat.encoding import EncodeOptions
from llama_factory.model.settings import ModelSettings
from llama_factory.training.loop import Protection, TrainingFolders, train
from llama_factory.training.settings import TrainingSettings

FORMS = {
    "lora": {"type": "lora", "rank": 4},
    "rslora": {"type": "lora", "rank": 4, "use_rslora": True},
    "dora": {"type": "lora", "rank": 4, "use_dora": True},
    "pissa": {"type": "lora", "rank": 4, "init": "pissa"},
    "quick pissa": {"type": "lora", "rank": 4, "init": "pissa_niter_8", "use_rslora": True},
    "olora": {"type": "lora", "rank": 4, "init": "olora"},
    "lora and head": {"type": "lora", "rank": 4, "modules_to_save": ["lm_head"]},
    "ia3": {"type": "ia3"},
    "oft": {"type": "oft", "block_size": 8},
    "bottleneck": {"type": "bottleneck", "size": 8},
    "prompt": {"type": "prompt", "num_tokens": 4},
    "freeze": {"type": "freeze", "highest": 1},
    "full": {"type": "full"},
}
"""Every adapter that a machine without a GPU can train, in each of its forms."""

OWN_WEIGHTS = ("freeze", "full")
IDS = torch.tensor([[5, 6, 7, 300, 21], [9, 9, 30, 31, 32]])


def settings(folder, form="lora", **options):
    adapter = FORMS[form] if isinstance(form, str) else form
    return ModelSettings(base_model=str(folder), **{"dtype": "float32", **options}, adapter=adapter)


def make(folder, form="lora", *, parent=None, seed=0, **options):
    chosen = settings(folder, form, **options)
    return adapt(chosen, parent, options=EncodeOptions(128), seed=seed)


def examples(count=6):
    turns = [
        (
            Message("user", f"第{i}个问题？"),
            Message("assistant", f"It is {i}. 是的。" * (1 + i % 3)),
        )
        for i in range(count)
    ]
    return [Example(pair, "g", "f.jsonl", i) for i, pair in enumerate(turns)]


class Heard:
    """Keeps what a training says."""

    def __init__(self):
        self.lines = []
        self.bar = SILENT.bar

    def say(self, text):
        self.lines.append(text)


def fit(model, path, progress=SILENT, **options):
    return train(
        model,
        examples(),
        TrainingSettings(**{"learning_rate": 1e-2, "batch_size": 3, "max_steps": 2, **options}),
        Protection(),
        folders=TrainingFolders(
            path / "checkpoints", path / "metrics.jsonl", path / "runs", path / "tokens"
        ),
        progress=progress,
    )


@torch.no_grad()
def logits(network, ids=IDS):
    """Of the given tokens: prompt tuning answers for its vectors as well."""
    return network.eval()(input_ids=ids).logits[:, -ids.shape[1] :]


def weights(network):
    return {name: weight.detach().clone() for name, weight in network.named_parameters()}
