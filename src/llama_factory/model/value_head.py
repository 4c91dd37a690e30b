"""The head of a reward model: one number for a sequence, from the state of its last token.

Saved beside the adapter under the names that LLaMA-Factory and TRL use.
"""

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from llama_factory.core.errors import ModelError
from llama_factory.model.layers import backbone_of
from llama_factory.model.padding import IGNORED
from llama_factory.model.provenance import HEAD_FILE as FILE
from llama_factory.model.quick.network import of_lengths

PREFIX = "v_head."
ATTRIBUTE = "value_head"


class ValueHead(nn.Module):
    """[n, width] -> [n]."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.summary = nn.Linear(width, 1)
        nn.init.normal_(self.summary.weight, std=1 / (width + 1) ** 0.5)
        nn.init.zeros_(self.summary.bias)

    def forward(self, hidden: Tensor) -> Tensor:
        """Scores, in the precision of the head."""
        with torch.autocast(hidden.device.type, enabled=False):
            values: Tensor = self.summary(hidden.to(self.summary.weight.dtype)).squeeze(-1)
        return values


class SequenceScores(nn.Module):
    """A model with a value head seen as: tokens and targets -> score of each sequence."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network
        self._backbone = [backbone_of(network)]  # in a list: its weights are registered once

    def forward(self, ids: Tensor, targets: Tensor) -> Tensor:
        """[sequences] scores; a sequence ends with its last trained token."""
        with of_lengths(targets):
            hidden = self._backbone[0](input_ids=ids, use_cache=False).last_hidden_state
        places = torch.arange(targets.shape[1], device=targets.device)
        last = torch.where(targets != IGNORED, places, 0).amax(1) + 1
        rows = torch.arange(len(ids), device=ids.device)
        scores: Tensor = getattr(self.network, ATTRIBUTE)(hidden[rows, last])
        return scores


def attach(network: Any, seed: int) -> None:
    """Give a network a fresh head, which trains, unless it has one."""
    if hasattr(network, ATTRIBUTE):
        return
    weight = network.get_input_embeddings().weight
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        head = ValueHead(network.config.get_text_config().hidden_size)
    network.add_module(ATTRIBUTE, head.to(weight.device))


def read(folder: Path, width: int) -> ValueHead | None:
    """The head saved in a folder, for a network of that width; None where there is none.

    Raises:
        ModelError: the file is damaged or belongs to a model of another width.
    """
    if not (folder / FILE).exists():
        return None
    head = ValueHead(width)
    _fill(head, folder / FILE)
    return head.eval()


def save(network: Any, folder: Path) -> None:
    """Write the head beside an adapter, where there is one."""
    if hasattr(network, ATTRIBUTE):
        head = getattr(network, ATTRIBUTE)
        tensors = {PREFIX + name: t.detach().cpu() for name, t in head.state_dict().items()}
        save_file(tensors, folder / FILE)


def load(network: Any, folder: Path) -> None:
    """Give a network the head saved in a folder, where there is one.

    Raises:
        ModelError: the file is damaged or belongs to a model of another width.
    """
    path = folder / FILE
    if not path.exists():
        return
    attach(network, seed=0)
    _fill(getattr(network, ATTRIBUTE), path)


def _fill(head: ValueHead, path: Path) -> None:
    try:
        tensors = {name.removeprefix(PREFIX): t for name, t in load_file(path).items()}
        head.load_state_dict(tensors)
    except (SafetensorError, RuntimeError, OSError) as error:
        raise ModelError(f"{path} is damaged or belongs to another model: {error}") from error
