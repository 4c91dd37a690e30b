"""A second model that the trained one learns from."""

from typing import Any

import torch
from torch import Tensor, nn

from llama_factory.core.errors import ModelError
from llama_factory.model.adapted import AdaptedModel
from llama_factory.model.base import load_network, load_tokenizer
from llama_factory.model.divergence import divergence
from llama_factory.model.layers import backbone_of, causal_of
from llama_factory.model.log_probs import has_plain_head, head_log_probs
from llama_factory.model.padding import IGNORED
from llama_factory.model.settings import ModelSettings
from llama_factory.model.source import resolve


def load_teacher(name: str, student: AdaptedModel) -> Any:
    """The teacher's network, frozen, where the student is and in its number format.

    Raises:
        ModelError: it cannot be read, or its tokenizer is not the student's.
    """
    folder = resolve(name)
    known, own = load_tokenizer(folder).get_vocab(), student.tokenizer.get_vocab()
    if known != own:
        shared = len(known.items() & own.items())
        raise ModelError(
            f"training.objective.teacher: {name} reads text in other tokens than the model that is "
            f"taught: {shared} of {len(own)} tokens are the same. Take a teacher of the same "
            "family, or teach its answers with the objective sft."
        )
    settings = ModelSettings.model_validate({"base_model": name, "dtype": student.precision.name})
    network = load_network(folder, settings)
    return network.requires_grad_(False).to(student.device)


class TaughtLogProbs(nn.Module):
    """Student and teacher seen as: tokens and targets -> log-probabilities and divergences."""

    def __init__(self, network: Any, teacher: Any, temperature: float) -> None:
        super().__init__()
        self.network = network
        self._teacher = [teacher]  # in a list: its weights are not the run's
        self._temperature = temperature
        for each in (network, teacher):
            _require_plain_head(each)

    def forward(self, ids: Tensor, targets: Tensor) -> Tensor:
        """[trained tokens, 2] log-probability of each token, and KL(teacher || student) there."""
        own, other = self.network.get_output_embeddings(), self._teacher[0].get_output_embeddings()
        student = _trained_states(self.network, ids, targets)
        with torch.no_grad():
            teacher = _trained_states(self._teacher[0], ids, targets)
        chosen = targets[targets != IGNORED]
        log_probs = head_log_probs(student, own.weight, own.bias, chosen)
        apart = divergence(student, teacher, own, self._temperature, reference_head=other)
        return torch.stack([log_probs, apart], 1)


def _trained_states(network: Any, ids: Tensor, targets: Tensor) -> Tensor:
    """[trained tokens, width] what the output head would see where a token is trained."""
    hidden: Tensor = backbone_of(network)(input_ids=ids, use_cache=False).last_hidden_state
    return hidden[targets != IGNORED]


def _require_plain_head(network: Any) -> None:
    if not has_plain_head(network):
        name = causal_of(network).config.name_or_path
        raise ModelError(
            f"training.objective: {name} changes its logits after the output head, and the "
            "objective distill cannot follow that. Take another model."
        )
