"""How likely a model finds each row's answer, or each plain text: one number a row."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from llama_factory.core.types import Example
from llama_factory.model.adapted import AdaptedModel
from llama_factory.model.chat.encoding import EncodedRow, encode
from llama_factory.model.output_head import TokenLogProbs
from llama_factory.model.padding import IGNORED, by_length, pad


@dataclass(frozen=True)
class Likelihood:
    """Of one row: negative log-likelihood in nats and how many tokens it is over, 0 if unfit."""

    nats: float
    tokens: int


@torch.no_grad()
def row_likelihoods(
    model: AdaptedModel, rows: Sequence[Example], *, batch_tokens: int
) -> list[Likelihood]:
    """The likelihood of each row's answers (of all of it, for plain text), in order.

    Args:
        model: with its adapter on.
        rows: any rows; those that the model's template or length does not fit count no token.
        batch_tokens: most tokens that go through the model at once.
    """
    options = replace(model.options, train_on_prompt=False)
    codes = {i: encode(row, model.tokenizer, options) for i, row in enumerate(rows)}
    fitting = [(i, code) for i, code in codes.items() if isinstance(code, EncodedRow)]
    found = [Likelihood(0.0, 0)] * len(rows)
    if not fitting:
        return found
    kernel = TokenLogProbs(model.network)
    for chosen in by_length([code for _, code in fitting], batch_tokens):
        measured = _measure(kernel, [fitting[n][1] for n in chosen], model.device)
        for n, each in zip(chosen, measured, strict=True):
            found[fitting[n][0]] = each
    return found


def _measure(
    kernel: TokenLogProbs, codes: Sequence[EncodedRow], device: torch.device
) -> list[Likelihood]:
    ids, targets = pad(codes)
    log_probs = kernel(ids.to(device), targets.to(device)).double().cpu()
    counts = (targets != IGNORED).sum(1).tolist()
    parts = torch.split(log_probs, counts)
    return [Likelihood(-float(p.sum()), n) for p, n in zip(parts, counts, strict=True)]
