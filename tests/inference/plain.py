"""Small networks of many kinds, and what they answer by a plain pass through them."""

import functools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from llama_factory.inference.batch_engine import BatchEngine, Limits
from llama_factory.inference.request import Ended, Event, Request, Token
from llama_factory.inference.sampling import Chooser, Chosen, choose

VOCAB = 120
USUAL: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 512,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "pad_token_id": 0,
    # Wide enough that answers differ from prompt to prompt.
    "initializer_range": 0.3,
}
EXPERTS = {"num_experts": 4, "num_local_experts": 4, "num_experts_per_tok": 2}
LONG_ROPE = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "short_factor": [1.0] * 4,
    "long_factor": [3.0] * 4,
    "factor": 8.0,
    "original_max_position_embeddings": 64,
}
PACKED: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {}),
    "llama, tied head": ("llama", {"tie_word_embeddings": True}),
    "qwen2": ("qwen2", {}),
    "gpt2, Conv1D": ("gpt2", {"n_positions": 512}),
    "gpt_neox": ("gpt_neox", {}),
    "phi": ("phi", {}),
    "mistral, window": ("mistral", {"sliding_window": 6}),
    "gemma2, softcap": ("gemma2", {"sliding_window": 6, "attn_logit_softcapping": 5.0}),
    "gemma3, some layers with a window": (
        "gemma3_text",
        {"sliding_window": 7, "layer_types": ["sliding_attention", "full_attention"]},
    ),
    "qwen2_moe, window by mask": (
        "qwen2_moe",
        {
            **EXPERTS,
            "moe_intermediate_size": 24,
            "shared_expert_intermediate_size": 24,
            "use_sliding_window": True,
            "sliding_window": 6,
            "max_window_layers": 1,
        },
    ),
}
ONE_BY_ONE: dict[str, tuple[str, dict[str, Any]]] = {
    "bloom": ("bloom", {"n_head": 4, "n_layer": 2}),
    "mamba": ("mamba", {"state_size": 4}),
    "phi3, longrope": (
        "phi3",
        {"rope_parameters": LONG_ROPE, "original_max_position_embeddings": 64},
    ),
    "gpt_oss, sinks": ("gpt_oss", {**EXPERTS, "sliding_window": 6}),
    "llama4, chunks": (
        "llama4_text",
        {**EXPERTS, "attention_chunk_size": 8, "intermediate_size_mlp": 48},
    ),
}


@functools.cache
def network_of(name: str, seed: int = 0) -> Any:
    """A network of `PACKED` or `ONE_BY_ONE`; nobody changes it."""
    return fresh_network(name, seed)


def fresh_network(name: str, seed: int = 0) -> Any:
    """The same, to be changed as one likes."""
    kind, changes = {**PACKED, **ONE_BY_ONE}[name]
    options = {"tie_word_embeddings": False, **USUAL, **changes}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **options))
    return network.float().eval()


@dataclass
class Heard:
    """What an engine has answered to one request."""

    tokens: list[Token] = field(default_factory=list)
    end: Ended | None = None

    @property
    def ids(self) -> list[int]:
        return [each.id for each in self.tokens]

    def hear(self, event: Event) -> None:
        assert self.end is None, "nothing comes after the end"
        if isinstance(event, Token):
            self.tokens.append(event)
        else:
            self.end = event


def heard(events: Iterable[Event]) -> dict[int, Heard]:
    """By ticket, in the order of tickets."""
    answers: dict[int, Heard] = {}
    for event in events:
        answers.setdefault(event.ticket, Heard()).hear(event)
    return dict(sorted(answers.items()))


def run(engine: BatchEngine, requests: Sequence[Request]) -> list[Heard]:
    """All answers, submitted at once."""
    answers = list(heard(engine.run(requests)).values())
    assert len(answers) == len(requests)
    assert all(each.end and each.end.reason != "failed" for each in answers), answers
    return answers


def engine_of(reader: Any, **limits: Any) -> BatchEngine:
    """An engine that answers with one reader, whatever the version."""
    return BatchEngine(lambda _: reader, Limits(**limits))


@torch.inference_mode()
def plain_logits(network: Any, ids: Sequence[int]) -> torch.Tensor:
    """[tokens, vocabulary] of one pass over a text, alone and without a cache."""
    logits = network(input_ids=torch.tensor([list(ids)]), use_cache=False).logits
    return torch.as_tensor(logits[0].float())


def plain_choices(network: Any, request: Request, answer: Heard) -> list[Chosen]:
    """What is chosen after the prompt and each beginning of an answer, by a plain pass.

    Where they are the answer, it is the one that a plain loop of passes gives.
    """
    logits = plain_logits(network, [*request.prompt, *answer.ids])
    chooser = Chooser(request, logits.shape[-1])
    first = len(request.prompt) - 1
    rows = logits[first : first + len(answer.ids)]
    return [choose(row[None], [chooser])[0] for row in rows]


def require_plain(network: Any, request: Request, answer: Heard) -> None:
    """Assert that an answer is the one of a plain loop of passes, with its log-probabilities."""
    chosen = plain_choices(network, request, answer)
    assert [each.id for each in chosen] == answer.ids
    assert [each.is_end for each in chosen[:-1]] == [False] * (len(chosen) - 1)
    for ours, plain in zip(answer.tokens, chosen, strict=True):
        require_same_logprobs(ours, plain)
    assert answer.end
    if answer.end.reason in ("stop", "length"):
        assert (answer.end.reason == "stop") == chosen[-1].is_end
        assert chosen[-1].is_end or len(answer.ids) == request.max_tokens


def require_same_logprobs(ours: Token, plain: Chosen) -> None:
    """Assert that log-probabilities are those of a plain pass to 1e-4."""
    assert (ours.logprob is None) == (plain.logprob is None)
    if ours.logprob is not None and plain.logprob is not None:
        assert abs(ours.logprob - plain.logprob) < 1e-4
        mine: Mapping[int, float] = dict(ours.alternatives)
        theirs = dict(plain.alternatives)
        assert mine.keys() == theirs.keys()
        assert all(abs(value - theirs[token]) < 1e-4 for token, value in mine.items())
